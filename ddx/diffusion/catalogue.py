"""The names to choose from, and which choices go together. No JAX is imported, so a command can refuse at once.

The functions behind the names stand in tables with the same names: `SOLVERS` in `ddx.diffusion.reverse.solvers`,
`VARIANCES` in `ddx.diffusion.reverse.variance`, `PREDICTIONS` in `ddx.diffusion.estimate.prediction`. To add a
solver, variance or prediction, put a function in its table and its name here; configs and commands then know it.
"""

from typing import NamedTuple

SOLVERS = ("euler", "heun", "dpmpp_2m", "dpmpp_3m", "deis", "unipc_2", "unipc_3")
MEASURED_SOLVERS = ("dpm_v3",)  # from statistics of a trained network, in the run's folder; they are in no config
STOCHASTIC_SOLVERS = ("euler", "dpmpp_2m")  # the others take steps of eta = 0 only

# Reverse variances, by what they are computed from.
FIXED_VARIANCES = ("small", "large")  # the process alone
LEARNED_VARIANCES = ("learned", "range")  # further outputs of a network that the bound has trained
SQUARE_VARIANCES = ("sn", "npr")  # further outputs that predict the squares of the output, or of its errors
# A further output for each coordinate, told by what a network has beside its prediction: a head.
HEAD_VARIANCES = (*SQUARE_VARIANCES, "ocm", "ocm_frequency")  # "ocm": it predicts the slope of eps
PROBED_VARIANCES = ("ocm_probes", "ocm_probes_frequency")  # the slope of eps itself, by random signs
HEURISTIC_VARIANCES = ("heuristic", "heuristic_averaged")  # the estimate of (x_0, eps) alone
ANALYTIC_VARIANCES = (  # statistics of a trained network
    *("analytic", "analytic_frequency", "analytic_pixel", "analytic_gamma"),
    *("analytic_paper", "analytic_paper1"),
)
# With the limits that the papers' code puts on V and on the last noise; "paper1" is for networks with the lower limit.
PUBLISHED_VARIANCES = tuple(
    f"{name}_{paper}" for name in ("analytic", *SQUARE_VARIANCES, *HEURISTIC_VARIANCES) for paper in ("paper", "paper1")
)
# Optimal given what is known of a trained network, with any sampler.
OPTIMAL_VARIANCES = tuple(
    dict.fromkeys((*ANALYTIC_VARIANCES, *HEAD_VARIANCES, *PROBED_VARIANCES, *HEURISTIC_VARIANCES, *PUBLISHED_VARIANCES))
)
DDPM_VARIANCES = ("large", *LEARNED_VARIANCES)  # for steps of eta = 1 only
VARIANCES = (*FIXED_VARIANCES, *LEARNED_VARIANCES, *OPTIMAL_VARIANCES)

OPTIMAL_TRAJECTORIES = ("optimal", "optimal_pictures")  # from statistics of a trained network

CDFS = ("exact", "tanh", "softmax")  # of the discretised decoder


class Needs(NamedTuple):
    """What a prediction needs of a process."""

    signal: bool = False  # some of x_0 must be left in every coordinate at T
    previous: bool = False  # it is about the image at t - 1, so times must be integers
    blur: bool | None = None  # True: a blur; False: no blur; None: either


PREDICTIONS = {
    "eps": Needs(signal=True),
    "x0": Needs(),
    "v": Needs(),
    "mean": Needs(previous=True, blur=False),
    "residual": Needs(previous=True, blur=True),
    "velocity": Needs(),
}
# Predictions whose errors are errors of x_0, as the optimal variances need.
X_0_PREDICTIONS = tuple(name for name, needs in PREDICTIONS.items() if not needs.previous)


def why_not(prediction: str, *, continuous: bool, blurs: bool, forgets: bool) -> str:
    """Why a prediction does not go with a process, worded to follow its name in a message; empty if they go together.

    Args:
      prediction: a name of `PREDICTIONS`.
      continuous: whether the process has real times.
      blurs: whether the process has a blur.
      forgets: whether nothing is left of some coordinates of x_0 at T.
    """
    needs = PREDICTIONS[prediction]
    if needs.previous and continuous:
        return "belongs to the step from t to t - 1, and times are continuous; use 'v'"
    if needs.blur and not blurs:
        return "is of a less blurred next image, and nothing blurs; use 'eps' or 'v'"
    if needs.blur is False and blurs:
        return "says nothing of x_0 where a frequency does not change; use 'residual' or 'v'"
    if needs.signal and forgets:
        own = " or 'x0'"
        if blurs and not continuous:
            own = ", 'x0' or, under ihdm's blur, 'residual'"
        elif continuous and not blurs:
            own = ", 'x0' or flow matching's 'velocity'"
        return f"says nothing of x_0 at t = T, where nothing of it is left; use 'v'{own}"
    return ""
