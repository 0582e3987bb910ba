"""The plain training loop."""

import pytest
import torch
from torch import Tensor, nn

from patchwork.training.fit_steps import fit_steps
from patchwork.training.optimizers import sgd
from patchwork.training.schedulers import wsd

STEPS = 5


@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_fit_steps_equals_a_hand_written_loop(max_norm: float | None) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(STEPS, 8, 3), torch.randn(STEPS, 8, 2)
    model, expected = nn.Linear(3, 2), nn.Linear(3, 2)
    expected.load_state_dict(model.state_dict())

    def loss_fn(index: int) -> Tensor:
        return nn.functional.mse_loss(model(x[index]), y[index])

    optimizer = sgd(model, lr=0.1, momentum=0.0, weight_decay=0.0, nesterov=False)
    scheduler = wsd(optimizer, STEPS, warmup_ratio=0.2, decay_ratio=0.5)
    loss = fit_steps(loss_fn, model.parameters(), optimizer, scheduler, STEPS, max_norm)

    for index in range(STEPS):
        expected_loss = nn.functional.mse_loss(expected(x[index]), y[index])
        grads = torch.autograd.grad(expected_loss, list(expected.parameters()))
        norm = torch.cat([grad.flatten() for grad in grads]).norm()
        clip = min(1.0, float(max_norm / norm)) if max_norm else 1.0
        lr = 0.1 * min(1.0, (index + 1) / (0.2 * STEPS + 1), (STEPS - index) / (0.5 * STEPS))
        with torch.no_grad():
            for parameter, grad in zip(expected.parameters(), grads, strict=True):
                parameter -= lr * clip * grad
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected_loss.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-5, atol=1e-6)
