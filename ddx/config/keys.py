"""The table of config keys. `ddx.config` checks values against it.

A row is all there is to say of a key: its default, which fixes its type, its meaning and the limit of its values.
"""

from ddx.config.evaluators import SCORES
from ddx.config.key import MOST_STEPS, Key, above, between, numbers, one_of, within
from ddx.config.sampling import MOST_TIMES, SAMPLING
from ddx.diffusion.catalogue import FIXED_VARIANCES, HEAD_VARIANCES, LEARNED_VARIANCES, PREDICTIONS
from ddx.diffusion.forward import betas

UNKNOWN = "unknown"  # the data.name of a converted run whose source does not tell
GIVEN = "given"  # the data.name of a run whose data were passed to `ddx.training.train`
PROCESSES = ("ddpm", "blurring", "ihdm", "rectified_flow")
NOISES = ("white", "power", "band", "equal_snr")
NETWORKS = ("unet", "dit")
FAMILIES = ("ddpm", "iddpm")
OBJECTIVES = ("simple", "kl", "rescaled_kl", "hybrid", "head")
HEADS = ("", "simple", "complex", "dense")
WEIGHTS = ("none", "constant", "min_snr", "p2", "edm")
TIME_SAMPLERS = ("uniform", "antithetic", "low_discrepancy", "loss_second_moment", "lognormal")

MOST_PIXELS = 16_384  # a side of an image

KEYS: dict[str, Key] = {
    "seed": Key(0, "number that decides initial weights, data order, times, noise and samples", **between(0, 2**32)),
    "data.name": Key("digits", "digits, folder, array, or the name of a TFDS data set such as cifar10"),
    "data.split": Key("train", "split to train on"),
    "data.dir": Key("", "folder or file of the data set; empty: $TFDS_DATA_DIR or TFDS's default"),
    "data.memory_mib": Key(1024, "size in MiB up to which decoded sets are kept in memory", **within(0, 1e9)),
    "data.disk_mib": Key(
        16_384, "size in MiB up to which larger sets are decoded once, into a copy on disk; 0: none", **within(0, 1e9)
    ),
    "data.cache_dir": Key("", "folder of these copies; empty: $XDG_CACHE_HOME/ddx or ~/.cache/ddx"),
    "data.image_size": Key(
        0,
        "size to shrink and centre-crop images to, one number or height,width; 0: their own",
        limit=f"at least 0, or two numbers of at least 1, and at most {MOST_PIXELS:,} a side",
        holds=lambda size: (
            0 <= size <= MOST_PIXELS
            if isinstance(size, int)
            else len(size) == 2 and min(size) >= 1 and max(size) <= MOST_PIXELS
        ),
        is_size=True,
    ),
    "data.channels": Key(
        0, "channels: 1 grey, 3 colour, 0 the data set's own", limit="0, 1 or 3", holds=lambda c: c in (0, 1, 3)
    ),
    "data.crop": Key(
        (),
        "part to cut out first, (top, left, height, width) in pixels; empty: all of the image",
        limit=f"empty or four numbers, the last two at least 1, all at most {MOST_PIXELS:,}",
        holds=lambda crop: (
            not crop or (len(crop) == 4 and min(crop[:2]) >= 0 and min(crop[2:]) >= 1 and max(crop) <= MOST_PIXELS)
        ),
    ),
    "data.low": Key(
        -1, "the lowest grey level, the highest is 1; 0 is IHDM's", limit="-1 or 0", holds=lambda low: low in (-1, 0)
    ),
    "data.flip": Key(False, "mirroring of each image left-right with probability 1/2"),
    "process.kind": Key(
        "ddpm",
        "kind of process: noise alone, with a blur, Blurring Diffusion's or IHDM's, or flow matching's straight line",
        **one_of(*PROCESSES),
    ),
    "process.schedule": Key("linear", "noise schedule of ddpm", **one_of(*betas.SCHEDULES)),
    "process.zero_terminal_snr": Key(
        False, "rescaling of the betas of ddpm such that nothing is left of the data at T (Lin et al. 2024)"
    ),
    "process.num_steps": Key(1000, "T, the number of noise levels", **within(1, MOST_TIMES)),
    "process.rescale_time": Key(
        False, "times told to the network as if T were 1000, in ddpm; blurring and rectified_flow always do"
    ),
    "process.first_time": Key(
        0,
        "time told to the network at t = 1, in ddpm: DDPM's code counts from 0, Analytic-DPM's own networks from 1",
        limit="0 or 1",
        holds=lambda time: time in (0, 1),
    ),
    "process.sigma_blur_max": Key(20.0, "standard deviation of the blur at T, in pixels", **within(0, 1e6)),
    "process.sigma_blur_min": Key(0.5, "standard deviation of the least blur of ihdm, in pixels", **above(0, 1e6)),
    "process.blur_schedule": Key("sin2", "growth of the blur of blurring", **one_of(*betas.BLUR_POWERS)),
    "process.d_min": Key(0.001, "part of every frequency that the blur of blurring leaves", **between(0, 1)),
    "process.logsnr_min": Key(-10.0, "log-SNR of the noise of blurring at T", **within(-80, 80)),
    "process.logsnr_max": Key(10.0, "log-SNR of the noise of blurring at 0", **within(-80, 80)),
    "process.noise": Key(
        "white",
        "colour of the noise, its weights over frequencies r: alike, a power, a band, or the data's own spread",
        **one_of(*NOISES),
    ),
    "process.noise_power": Key(-0.5, "exponent of r in power: below 0 most of the noise is coarse", **within(-2, 2)),
    "process.noise_low": Key(0.0, "lowest frequency of band", **within(0, 1.5)),
    "process.noise_high": Key(0.5, "end of band", **within(0, 1.5)),
    "process.noise_floor": Key(0.1, "weight of frequencies outside band, whose own is 1", **within(0.001, 1)),
    "process.sigma": Key(0.01, "standard deviation of the noise of ihdm", **above(0, 100)),
    "model.network": Key(
        "unet", "kind of network: unet, or dit, a transformer over patches of the images", **one_of(*NETWORKS)
    ),
    "model.family": Key(
        "ddpm",
        "code base whose conventions a unet follows: embedding, padding, epsilon, initial weights",
        **one_of(*FAMILIES),
    ),
    "model.channels": Key(128, "channels of the first level; of a dit, of every token", **within(4, 16_384)),
    "model.multipliers": Key(
        (1, 2, 2, 2),
        "channels of each level, as multiples",
        **numbers(1, 14, 1, 1024),
    ),
    "model.num_blocks": Key(2, "residual blocks a level", **within(1, 100)),
    "model.attention_resolutions": Key((16,), "image heights at which to attend", **numbers(0, 14, 1, MOST_PIXELS)),
    "model.groups": Key(32, "groups of the normalisations", **within(1, 16_384)),
    "model.dropout": Key(0.1, "dropout rate in residual blocks; a dit has none, and 0 here", **between(0, 1)),
    "model.num_heads": Key(1, "heads of each attention block", **within(1, 16_384)),
    "model.head_channels": Key(
        0,
        "channels of each head, for more heads where there are more channels; 0: model.num_heads heads",
        **within(0, 16_384),
    ),
    "model.resample_blocks": Key(False, "residual blocks to halve and double the images, as in ADM, not convolutions"),
    "model.scale_shift": Key(False, "scale and shift by the time in residual blocks, to which it is added otherwise"),
    "model.low_res": Key(
        0,
        "height of low-resolution images to enlarge, for a super-resolution network; 0: none",
        **within(0, MOST_PIXELS),
    ),
    "model.patch_size": Key(2, "side of the patches that are the tokens of a dit, in pixels", **within(1, 1024)),
    "model.depth": Key(12, "transformer blocks of a dit", **within(1, 1000)),
    "model.class_conditional": Key(False, "classes of the images, told to the network"),
    "model.label_dropout": Key(
        0.0,
        "probability of not telling an image's class in training; above 0 the network knows a further class, none, and"
        " can be guided",
        **between(0, 1),
    ),
    "model.head": Key(
        "",
        "layers of their own for what a network outputs besides its prediction; empty: none",
        limit="empty, simple, complex or dense",
        holds=lambda value: value in HEADS,
    ),
    "model.dtype": Key("float32", "type of the computation; parameters stay float32", **one_of("float32", "bfloat16")),
    "model.remat": Key(False, "recomputation of activations in the backward pass: less memory, a third more time"),
    "loss.prediction": Key("eps", "output of the network", **one_of(*PREDICTIONS)),
    "loss.objective": Key(
        "simple",
        "loss: simple (DDPM), hybrid (Improved DDPM), head (SN-, NPR- and OCM-DPM) or a term of the bound",
        **one_of(*OBJECTIVES),
    ),
    "loss.variance": Key(
        "small",
        "reverse variance of the bound, or what a head predicts; all but small and large double the network's outputs",
        **one_of(*FIXED_VARIANCES, *LEARNED_VARIANCES, *HEAD_VARIANCES),
    ),
    "loss.vlb_weight": Key(0.001, "weight of the bound, in bits/dim, in hybrid", **within(0, 1e6)),
    "loss.weight": Key(
        "none",
        "weight of the squared errors, by the SNR and as errors of x_0; none: the output's errors as they are",
        **one_of(*WEIGHTS),
    ),
    "loss.min_snr_gamma": Key(5.0, "gamma of weight min_snr, min(SNR, gamma)", **above(0, 1e6)),
    "loss.p2_gamma": Key(1.0, "gamma of weight p2, SNR / (1 + SNR)^gamma", **within(0, 10)),
    "loss.sigma_data": Key(
        0.5, "standard deviation of the data in weight edm, SNR + 1 / sigma_data^2", **within(1e-3, 1e3)
    ),
    "loss.times": Key("uniform", "distribution of the times", **one_of(*TIME_SAMPLERS)),
    "loss.times_mean": Key(
        -1.2, "mean of log(sigma / alpha) in times lognormal; of the logit of t / T in flow matching", **within(-20, 20)
    ),
    "loss.times_std": Key(1.2, "standard deviation of the same", **within(1e-3, 20)),
    "loss.reduction": Key(
        "mean", "reduction of an image's squared errors in simple; IHDM sums", **one_of("mean", "sum")
    ),
    "loss.last_level": Key(True, "training at T too, where sampling starts; IHDM's released code leaves it out"),
    "train.backbone": Key(
        "", "folder of a run whose averaged weights are used and stay as they are; only model.head is trained"
    ),
    "train.init_from": Key(
        "", "run whose averaged weights this one starts from, as FOLDER or FOLDER:STEP; empty: random weights"
    ),
    "train.num_steps": Key(800_000, "training steps", **within(1, MOST_STEPS)),
    "train.batch_size": Key(128, "images a step, over all devices", **within(1, 1_000_000)),
    "train.accumulation": Key(
        1, "parts that a device's batch is split into; their gradients are averaged", **within(1, 1_000_000)
    ),
    "train.learning_rate": Key(2e-4, "learning rate of Adam", **above(0, 1e38)),
    "train.warmup_steps": Key(5000, "steps over which the learning rate rises from 0", **within(0, MOST_STEPS)),
    "train.clip_norm": Key(1.0, "limit of the gradient's global norm; 0: none", **within(0, 1e9)),
    "train.ema_decay": Key(0.9999, "decay of the averaged weights", **between(0, 1)),
    "train.ema_warmup": Key(
        False, "smaller decay at the beginning: (1 + n) / (10 + n) at the n-th step while that is smaller"
    ),
    "train.steps_per_call": Key(
        0, "largest number of steps in one compiled call; 0: 1 on CPU, up to 32 elsewhere", **within(0, 10_000)
    ),
    "train.max_bad_steps": Key(
        10, "steps in a row whose loss or gradient may be not finite; they change nothing", **within(0, MOST_STEPS)
    ),
    "train.hang_timeout": Key(
        1800, "seconds without progress after which the stacks of all threads are shown; 0: never", **within(0, 1e6)
    ),
    "train.log_every": Key(100, "steps between lines of metrics", **within(1, MOST_STEPS)),
    "train.checkpoint_every": Key(5000, "steps between checkpoints", **within(1, MOST_STEPS)),
    "train.keep_checkpoints": Key(3, "newest checkpoints to keep", **within(1, MOST_STEPS)),
    "train.sample_every": Key(25_000, "steps between grids of samples", **within(1, MOST_STEPS)),
    "train.evaluate": Key(
        "",
        "scores of the network on its way, such as bpd; empty: none",
        limit=f"empty, or of: {', '.join(SCORES)}",
        holds=lambda value: not value or set(value.split(",")) <= set(SCORES),
    ),
    "train.evaluate_every": Key(25_000, "steps between scores", **within(1, MOST_STEPS)),
    "train.evaluate_examples": Key(256, "size of a random part of the split to score", **within(1, MOST_STEPS)),
    "train.evaluate_split": Key("test", "split to score on"),
    **{f"sample.{name}": key for name, key in SAMPLING.items()},
}

# Keys that name a folder.
PATHS = ("data.dir", "data.cache_dir", "train.backbone", "train.init_from")
LOCAL = ("data.cache_dir",)  # and must be on this machine

# A run that has checkpoints may resume with other values of these: they do not decide the state after N steps.
CHANGEABLE = (
    "data.dir",
    "data.memory_mib",
    "data.disk_mib",
    "data.cache_dir",
    "train.num_steps",
    "train.max_bad_steps",
    "train.hang_timeout",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.evaluate",
    "train.evaluate_every",
    "train.evaluate_examples",
    "train.evaluate_split",
)
CHANGEABLE_GROUPS = ("sample.",)
# And of these: they decide how a state is reached, not what it is. Such a change is recorded.
ADJUSTABLE = (
    "model.dropout",
    "model.dtype",
    "model.remat",
    "train.batch_size",
    "train.accumulation",
    "train.learning_rate",
    "train.warmup_steps",
    "train.clip_norm",
    "train.ema_decay",
    "train.ema_warmup",
    "train.steps_per_call",
)
