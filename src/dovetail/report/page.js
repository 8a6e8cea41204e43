"use strict";

// Draws every figure in the colours of the page, and again when they change; sorts tables; hides series.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 520px)");
const configuration = { displayModeBar: false, responsive: true };

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themedTraces(data) {
  const whiskers = (trace) => ({ ...trace.error_x, color: colour("--ink") });
  return data.map((trace) => (trace.error_x ? { ...trace, error_x: whiskers(trace) } : trace));
}

function themed(layout) {
  const axis = { gridcolor: colour("--grid"), linecolor: colour("--grid"), tickfont: {}, color: colour("--soft") };
  const size = narrow.matches ? 10 : layout.font.size;
  const result = {
    ...layout,
    font: { family: getComputedStyle(document.body).fontFamily, size, color: colour("--ink") },
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis, color: colour("--ink") },
    margin: { ...layout.margin },
    hoverlabel: {
      ...layout.hoverlabel,
      bgcolor: colour("--surface"),
      bordercolor: colour("--line"),
      font: { color: colour("--ink") },
    },
  };
  if (narrow.matches && layout.annotations) result.margin.r = (layout.margin.r * size) / layout.font.size;
  return result;
}

const figures = [...document.querySelectorAll(".plot")].map((element) => ({
  element,
  ...JSON.parse(document.getElementById(element.dataset.figure).textContent),
}));

for (const { element, data, layout } of figures) {
  Plotly.newPlot(element, themedTraces(data), themed(layout), configuration);
}

for (const query of [dark, narrow]) {
  query.addEventListener("change", () => {
    for (const { element, data, layout } of figures) Plotly.react(element, themedTraces(data), themed(layout), configuration);
  });
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    const plot = button.closest("figure").querySelector(".plot");
    Plotly.restyle(plot, { visible: shown }, [Number(button.dataset.series)]);
  });
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const column = heading.cellIndex;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [one, other] = [value(a), value(b)];
      const numeric = one !== "" && other !== "" && !isNaN(one) && !isNaN(other);
      return numeric ? one - other : one.localeCompare(other, undefined, { numeric: true });
    };
    const body = heading.closest("table").tBodies[0];
    const rows = [...body.rows].sort((a, b) => (ascending ? compare(a, b) : compare(b, a)));
    body.append(...rows);
  });
}
