/* Runs a network without Python, on one input of zeros or on numbers from standard input:

     dovetail export model.dvt --to plan
     gcc -I FOLDER run_plan.c -o run_plan -L FOLDER -ldovetail -Wl,-rpath,FOLDER
     ./run_plan model.plan 1 < inputs.txt

   where FOLDER is what `python -c "import dovetail; print(dovetail.__path__[0])"` prints. */
#include <stdio.h>
#include <stdlib.h>

#include "dovetail.h"

static size_t product(size_t count, const int *sides) {
  size_t values = 1;
  for (size_t i = 0; i < count; ++i) values *= (size_t)sides[i];
  return values;
}

int main(int count, char **arguments) {
  if (count < 2) {
    fprintf(stderr, "usage: %s FILE.plan [BATCH] < NUMBERS\n", arguments[0]);
    return 2;
  }
  const int batch = count > 2 ? atoi(arguments[2]) : 1;
  dovetail_network *network = dovetail_load(arguments[1], 1);
  if (!network) {
    fprintf(stderr, "%s\n", dovetail_error());
    return 2;
  }
  const int *sides;
  size_t dimensions = dovetail_input_shape(network, &sides);
  const size_t inputs = (size_t)batch * product(dimensions, sides);
  dimensions = dovetail_output_shape(network, &sides);
  const size_t outputs = (size_t)batch * product(dimensions, sides);
  float *x = calloc(inputs + 1, sizeof(float)), *y = calloc(outputs + 1, sizeof(float));
  if (!x || !y) return 2;
  for (size_t i = 0; i < inputs && scanf("%f", &x[i]) == 1; ++i) continue;
  if (dovetail_run(network, batch, x, y) != 0) {
    fprintf(stderr, "%s\n", dovetail_error());
    return 2;
  }
  for (size_t i = 0; i < outputs; ++i) printf("%.9g\n", y[i]);
  dovetail_free(network);
  free(x);
  free(y);
  return 0;
}
