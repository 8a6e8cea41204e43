import pytest
import torch

from dovetail.data import Classification, CloseOutputs, MatchOutputs, matching
from dovetail.errors import DataError


def test_classification_scores_the_largest_logit():
    outputs = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert Classification().score(outputs, torch.tensor([0, 1])).tolist() == [1.0, 0.0]


def test_classification_is_cross_entropy_with_smoothed_targets():
    outputs, targets = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])
    log_p = outputs.log_softmax(1)[0]
    for smoothing in (0.0, 0.3):
        smoothed = torch.full((3,), smoothing / 3) + torch.tensor([1 - smoothing, 0, 0])
        loss = Classification().loss(outputs, targets, label_smoothing=smoothing)
        torch.testing.assert_close(loss, -(smoothed * log_p).sum())


def test_matching_is_best_at_the_original():
    outputs = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    assert MatchOutputs().loss(outputs, outputs) == pytest.approx(0, abs=1e-6)
    assert MatchOutputs().loss(outputs.flip(1), outputs) > 1
    assert MatchOutputs().score(outputs, outputs + 5).tolist() == [1.0, 1.0]
    assert MatchOutputs().score(outputs, torch.tensor([[1.0, 3.0], [0.0, 2.0]])).tolist() == [0.0, 1.0]


def test_matching_maps_is_scored_by_position():
    outputs, targets = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    outputs[0, 1, 0, 0] = targets[0, 1, 0, 0] = targets[0, 1, 1, 1] = 1
    assert MatchOutputs().score(outputs, targets).tolist() == [0.75]


def test_agreement_needs_classes():
    with pytest.raises(DataError, match=r"K >= 2.*\(4, 1\)"):
        MatchOutputs().score(torch.zeros(4, 1), torch.zeros(4, 1))


@pytest.mark.parametrize("shape", [(3, 5), (3, 1, 4, 4), (3, 2, 7)])
def test_closeness_is_the_energy_that_is_not_error(shape):
    targets = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert CloseOutputs().score(targets, targets).tolist() == [1, 1, 1]
    torch.testing.assert_close(CloseOutputs().score(0.9 * targets, targets), torch.full((3,), 0.99))
    torch.testing.assert_close(CloseOutputs().loss(0.9 * targets, targets), torch.tensor(0.01))
    assert CloseOutputs().score(-targets, targets).tolist() == [0, 0, 0]


def test_outputs_are_compared_as_their_shape_asks():
    assert matching(torch.zeros(1, 10)) == matching(torch.zeros(1, 2, 8, 8)) == MatchOutputs()
    for shape in ((1, 1), (1, 1, 8, 8), (1, 40, 100), (1,)):
        assert matching(torch.zeros(shape)) == CloseOutputs()


def test_probabilities_are_matched_as_they_are():
    logits, taught = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    expected = MatchOutputs().loss(logits, taught)
    torch.testing.assert_close(MatchOutputs().loss(logits.softmax(1), taught.softmax(1)), expected)


def test_a_sample_without_output_does_not_rule_the_error_of_all() -> None:
    targets = torch.tensor([[1.0, 2.0], [1e-6, 0.0]])
    assert CloseOutputs().loss(targets + 1e-3, targets) < 1e-6
