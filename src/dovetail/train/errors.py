"""What can go wrong in training that a user can put right."""

from dovetail.errors import DovetailError


class TrainingError(DovetailError):
    """Training that diverged, or a saved state that is damaged or belongs to another run."""
