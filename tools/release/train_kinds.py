"""Train the models of all kinds of images together on one trunk.

    python -m tools.release.train_kinds --data FOLDER --output FOLDER --until 16:40
    python -m tools.release.train_kinds --data FOLDER --output FOLDER --until 16:40 \\
        --families density --start src/cellwright/weights/flow
    python -m tools.release.train_kinds --data FOLDER --output FOLDER --until 16:40 \\
        --families flow --deeper --start FORMER
    python -m tools.release.train_kinds --data FOLDER --output FOLDER --until 16:40 \\
        --families flow centroid query density --deeper --start FLOW CENTROID QUERY DENSITY
    python -m tools.release.train_kinds --data FOLDER --output FOLDER --until 16:40 \\
        --families flow --poorer --start FORMER
    python -m tools.release.train_kinds --data FOLDER --output FOLDER --until 16:40 \\
        --families flow --drawn-out --start FORMER
    python -m tools.release.train_kinds --data FOLDER --output FOLDER --until 16:40 \\
        --families centroid query --drawn-out --start CENTROID QUERY

The encoder starts from ImageNet (``pip install napari-cellwright[pretrain]``), or the trunk from a model that
knows all kinds. The learning rate falls with the clock, so that a run ends when it should on a busy machine;
one that was stopped goes on from its last state. Patches are drawn by kind, so that rare kinds are learned,
too. ``--deeper`` goes on from finished models with the blocks of ``deep``, slower steps, and patches that
nobody has photographed, see ``spoilt.py``; the trunk is that of the first, and each gives its head.
``--poorer`` goes on with a share of patches that are made worse, ``--drawn-out`` also with long and narrow
cells, and with platelets in most patches of blood.
"""

import argparse
import copy
import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cellwright.models import registry
from cellwright.models.checkpoint import load_checkpoint, save_checkpoint
from cellwright.models.layers.efficientnet_lite import load_imagenet
from cellwright.models.layers.trunk import DEEP, LITE, HeadedNetwork, LiteNetwork
from cellwright.models.protocol import CellModel
from cellwright.ops.labels import annotate
from cellwright.training.data.sampler import (
    WeightedSamples,
    appearance,
    cluster_images,
    make_batch,
    one_ahead,
    sampling_weights,
)
from cellwright.training.data.samples import Sample
from cellwright.training.settings import TrainingSettings
from cellwright.training.state import RunState
from cellwright.training.trainer import cosine, forward, take_step
from tools.command_line import command_line
from tools.release.joint import JointModel
from tools.release.kinds import KINDS, samples_of
from tools.release.simulated_kinds import simulated
from tools.release.spoilt import drawn_out, with_poorer, with_spoilt

FAMILIES = {"flow": 1.0, "centroid": 0.5, "query": 0.5, "density": 1.0}  # weight of each one's loss


@dataclass(frozen=True)
class Recipe:
    """What is learned how fast; ``shares`` are those of kinds (dataset, group) that get another.

    ``small_repeats`` says how many times as often as others a small cell of blood is in a patch.
    """

    preset: str
    settings: TrainingSettings
    encoder_rate: float
    decoder_rate: float
    simulated_share: float
    shares: dict[tuple[str, str | None], float] = field(default_factory=dict)
    is_spoilt: bool = False
    poorer_share: float = 0.0
    drawn_out_share: float = 0.0
    small_repeats: int = 1


@dataclass(frozen=True)
class Schedule:
    """When a run began and when it ends: at a moment, or after so many steps if there are any."""

    began: float
    ends: float = 0.0
    n_steps: int = 0

    def progress(self, step: int) -> float:
        """Return how much of the run lies behind a step, 0 to 1 and more."""
        if self.n_steps:
            return step / self.n_steps
        return (time.time() - self.began) / (self.ends - self.began)


FIRST = Recipe(
    preset=LITE,
    settings=TrainingSettings(
        seed=41,
        patch_px=192,
        batch_size=8,
        ema_decay=0.9985,
        weight_decay=0.02,
        warmup_steps=200,
        augmentation=0.6,
        smallest_diameter_px=8.0,
        largest_diameter_px=90.0,
        exclude_boundaries=0.0,
    ),
    encoder_rate=6e-4,
    decoder_rate=1.5e-3,
    simulated_share=0.22,
)
DEEPER = Recipe(
    preset=DEEP,
    settings=replace(FIRST.settings, seed=97, augmentation=0.4, warmup_steps=150),
    encoder_rate=1.2e-4,
    decoder_rate=3e-4,
    simulated_share=0.12,
    shares={
        ("dsb2018_train", "fluo"): 0.22,
        ("dsb2018_train", "histology"): 0.20,
        ("dsb2018_train", "brightfield"): 0.05,
        ("polyp_nuclei", None): 0.13,
        ("hgsc_he_silver", None): 0.04,
        ("qpi_cells", None): 0.06,
        ("bbbc050", None): 0.07,
        ("bccd", None): 0.17,
        ("blood_boxes", None): 0.03,
        ("chula_rbc12", None): 0.03,
    },
    is_spoilt=True,
)
SEVERAL = replace(
    DEEPER,
    settings=replace(DEEPER.settings, seed=131),
    decoder_rate=3.5e-4,
    shares=DEEPER.shares | {("dsb2018_train", "fluo"): 0.24, ("bccd", None): 0.15},
)
POORER = replace(
    DEEPER,
    settings=replace(DEEPER.settings, seed=211),
    encoder_rate=1e-4,
    decoder_rate=2.5e-4,
    poorer_share=0.25,
)
DRAWN_OUT = replace(POORER, drawn_out_share=0.07, small_repeats=10)
SPOILING = 5  # apart from the random numbers that patches are cut with
KEEP_SECONDS = 180
SMEARS = ("bccd", "blood_boxes")
SMALL = 0.35  # of the area of the median cell
MODALITIES = 8  # clusters within a kind
N_DRAWN_OUT = 500  # images of which a piece is drawn out, where it is all annotated


def main() -> None:
    """Train until the clock says so."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--until", required=True, help="time of day at which the rate has fallen to nothing")
    parser.add_argument("--cache", type=Path, help="folder that keeps the images in memory's form")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=["flow", "centroid", "query"])
    parser.add_argument(
        "--start",
        type=Path,
        nargs="+",
        default=[],
        help="models: the trunk of the first, heads of all",
    )
    parser.add_argument("--deeper", action="store_true", help="add blocks to the trunk of --start")
    parser.add_argument("--poorer", action="store_true", help="go on from --start with images made worse")
    parser.add_argument("--drawn-out", action="store_true", help="the same, also with long and narrow cells")
    parser.add_argument(
        "--leave-out", nargs="*", default=[], help="kinds not to learn: DATASET, or DATASET/GROUP"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(options)
    model = joint_model(options.families, recipe, options.start)
    state = new_state(model, recipe)
    began = resume(state, options.output / "state.pt")
    pools = pools_of(options.data, model, recipe, options.cache, options.leave_out)
    ends = datetime.combine(datetime.now(), datetime.strptime(options.until, "%H:%M").time()).timestamp()
    train(state, model, recipe, pools, options.output, Schedule(began, ends))


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Return what is asked for; what goes on with images made worse keeps the layers it starts with."""
    if options.deeper:
        return DEEPER if len(options.families) == 1 else SEVERAL
    if options.drawn_out or options.poorer:
        recipe = DRAWN_OUT if options.drawn_out else POORER
        return replace(recipe, preset=load_checkpoint(options.start[0]).spec.preset)
    return FIRST


def joint_model(families: Sequence[str], recipe: Recipe, starts: Sequence[Path] = ()) -> JointModel:
    """Return the families on one trunk: that of the first of ``starts``, or ImageNet's encoder."""
    torch.manual_seed(recipe.settings.seed)
    models: list[CellModel] = [registry.get(family).load().build(recipe.preset) for family in families]
    first = models[0].network
    assert isinstance(first, LiteNetwork)
    learned = [load_checkpoint(start) for start in starts]
    if learned:
        begin(first, learned[0].network)
    else:
        load_imagenet(first.encoder)
    joint = JointModel(models, [FAMILIES[family] for family in families])
    assert isinstance(joint.network, HeadedNetwork)
    for model in learned[1:]:
        head = joint.network.head.get_submodule(f"heads.{model.spec.family}")
        head.load_state_dict(model.network.get_submodule("head").state_dict())
    return joint


def begin(network: LiteNetwork, learned: torch.nn.Module) -> None:
    """Give a network what another one has learned, where both have the same layers.

    What ``flow`` says of single cells ``density`` says beside its count.
    """
    theirs = learned.state_dict()
    heads = {name: value for name, value in theirs.items() if name.startswith("head.")}
    theirs |= {f"head.heads.cells.{name.removeprefix('head.')}": value for name, value in heads.items()}
    own = network.state_dict()
    same = {name for name in own if name in theirs and own[name].shape == theirs[name].shape}
    network.load_state_dict({name: theirs[name] for name in same}, strict=False)


def new_state(model: JointModel, recipe: Recipe) -> RunState:
    """Return the state before the first step; the encoder learns at a rate of its own."""
    network = model.network
    assert isinstance(network, HeadedNetwork)
    others = [*network.decoder.parameters(), *network.head.parameters()]
    groups = [
        {"params": list(network.encoder.parameters()), "highest": recipe.encoder_rate},
        {"params": others, "highest": recipe.decoder_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.settings.weight_decay)
    return RunState(network, copy.deepcopy(network), optimizer)


def pools_of(
    data: Path, model: JointModel, recipe: Recipe, cache: Path | None, left_out: Sequence[str] = ()
) -> list[tuple[float, WeightedSamples]]:
    """Return the images of each kind with their share of the patches, but for kinds that are left out."""
    pools = []
    for number, kind in enumerate(KINDS):
        if {kind.dataset, f"{kind.dataset}/{kind.group}"} & set(left_out):
            continue
        name = f"{number:02d}_{kind.dataset}_{kind.group or 'all'}.pt"
        samples = _cached(cache and cache / name, partial(samples_of, kind, data, model))
        if kind.dataset in SMEARS:
            samples = [small_oftener(sample, recipe.small_repeats) for sample in samples]
        kinds = cluster_images([appearance(sample) for sample in samples], MODALITIES, recipe.settings.seed)
        share = recipe.shares.get((kind.dataset, kind.group), kind.share) * (1 - recipe.simulated_share)
        pools.append((share, WeightedSamples(tuple(samples), sampling_weights(kinds))))
        print(f"{name}: {len(samples)} images, diameter {_diameter(samples):.0f} px", flush=True)
    if recipe.drawn_out_share:
        whole = [sample for _, pool in pools for sample in pool.samples if sample.labels.any()]
        rng = np.random.default_rng(recipe.settings.seed)
        chosen = [whole[i] for i in rng.permutation(len(whole))[:N_DRAWN_OUT]]
        made = [drawn_out(sample, model, rng) for sample in chosen]
        pools.append((recipe.drawn_out_share, _evenly([sample for sample in made if sample])))
    drawn = _cached(cache and cache / "simulated_views.pt", partial(simulated, model, recipe.settings.seed))
    pools.append((recipe.simulated_share, _evenly(drawn)))
    return pools


def small_oftener(sample: Sample, repeats: int) -> Sample:
    """Return a sample that is cut around its small cells, platelets in blood, so many times as often."""
    areas = np.bincount(sample.labels.numpy().ravel())
    rows, columns = sample.points.round().astype(int).T
    own = areas[sample.labels.numpy()[rows, columns]]
    small = sample.points[own < SMALL * np.median(own)]
    return replace(sample, points=np.concatenate([sample.points, *[small] * (repeats - 1)]))


def _evenly(samples: list[Sample]) -> WeightedSamples:
    return WeightedSamples(tuple(samples), np.full(len(samples), 1 / len(samples)))


def _diameter(samples: list[Sample]) -> float:
    return float(np.nanmedian([sample.diameter_px for sample in samples]))


def _cached(path: Path | None, make: Callable[[], list[Sample]]) -> list[Sample]:
    if path is None:
        return make()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    samples: list[Sample] = torch.load(path, weights_only=False, mmap=True)
    return samples


def targets_of_nothing(model: JointModel) -> Tensor:
    """Return the targets (C, 1, 1) of a pixel of a field without cells."""
    maps = model.make_targets(annotate(np.zeros((1, 1), np.int32)))
    return torch.from_numpy(np.concatenate([maps[name] for name in model.spec.map_channels]))


def batch_of(
    pools: list[tuple[float, WeightedSamples]], step: int, recipe: Recipe, of_nothing: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the patches of one step: kinds are drawn by their shares."""
    settings = recipe.settings
    rng = np.random.default_rng((settings.seed, step))
    shares = np.array([share for share, _ in pools])
    counts = rng.multinomial(settings.batch_size, shares / shares.sum())
    parts = [(pool, int(n)) for (_, pool), n in zip(pools, counts, strict=True) if n]
    images, targets = make_batch(parts, settings, rng, exclude=False)
    if recipe.is_spoilt:
        rng = np.random.default_rng((settings.seed, step, SPOILING))
        images, targets = with_spoilt(images, targets, of_nothing, rng)
        images = with_poorer(images, recipe.poorer_share, rng)
    return images, targets


def train(
    state: RunState,
    model: JointModel,
    recipe: Recipe,
    pools: list[tuple[float, WeightedSamples]],
    output: Path,
    schedule: Schedule,
) -> None:
    """Take steps until the schedule ends, keeping the state every few minutes."""
    kept = time.time()
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stops.append(number))
    state.network.train()
    of_nothing = targets_of_nothing(model)
    batches = one_ahead(lambda step: batch_of(pools, step, recipe, of_nothing), range(state.step, 10**6))
    for images, targets in batches:
        progress = schedule.progress(state.step)
        if progress >= 1 or stops:
            break
        fall = min(1.0, (state.step + 1) / recipe.settings.warmup_steps) * cosine(progress, 1)
        loss = model.loss(forward(state.network, model, images), targets)
        take_step(state, loss, fall, recipe.settings.ema_decay)
        if state.step % 100 == 0:
            print(
                f"{datetime.now():%H:%M:%S} step {state.step} loss {np.mean(state.losses[-100:]):.4f} "
                f"progress {progress:.3f}",
                flush=True,
            )
        if time.time() - kept > KEEP_SECONDS:
            keep(state, model, output, schedule.began)
            kept = time.time()
    keep(state, model, output, schedule.began)


def keep(state: RunState, model: JointModel, output: Path, began: float) -> None:
    """Write the state, and the average weights as one model of each family."""
    saved = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "began": began,
        "losses": state.losses,
    }
    torch.save(saved, output / "state.part")
    (output / "state.part").replace(output / "state.pt")
    for part in model.models:
        family = part.spec.family
        save_checkpoint(output / family, model.part(family, state.average))
    curve = [float(np.mean(state.losses[i : i + 100])) for i in range(0, len(state.losses), 100)]
    (output / "curve.json").write_text(json.dumps({"steps": state.step, "losses": curve}), encoding="utf-8")


def resume(state: RunState, path: Path) -> float:
    """Bring a new state to where the run ended; return when it began."""
    if not path.exists():
        return time.time()
    saved = torch.load(path, map_location="cpu", weights_only=True)
    state.network.load_state_dict(saved["network"])
    state.average.load_state_dict(saved["average"])
    highest = [group["highest"] for group in state.optimizer.param_groups]
    state.optimizer.load_state_dict(saved["optimizer"])
    for group, rate in zip(state.optimizer.param_groups, highest, strict=True):
        group["highest"] = rate
    state.step, state.losses = saved["step"], saved["losses"]
    return float(saved["began"])


if __name__ == "__main__":
    main()
