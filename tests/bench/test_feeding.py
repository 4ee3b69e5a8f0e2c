"""How many images a second the loader gives. Run alone on a quiet machine: pytest -m bench -n 0 -s tests/bench"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import time

import numpy as np
import pytest
from PIL import Image

import ddx.data
from ddx.data import Storage
from ddx.data.decode import Conversion, read_image

pytestmark = pytest.mark.bench
SECONDS = 5.0
WANTED = 7300  # of 32 x 32 a second: ddpm_cifar10 at batch 128 on a v3-8, by the compiler's estimate of 17.6 ms a step


def photograph(rng, side):
    """Smooth and noisy, so that its file has about the size of a photograph's."""
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return Image.fromarray(np.clip(np.asarray(coarse) + rng.normal(0, 8, (side, side, 3)), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 1,000 JPEG files of 256 x 256."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i in range(1000):
        photograph(rng, 256).save(folder / f"{i:04d}.jpg", quality=90)
    return str(folder)


def rate(data, batch_size):
    """Images a second, as training reads them."""
    with ddx.data.batches(data, seed=0, batch_size=batch_size, first_step=0, last_step=10**6, prefetch=4) as stream:
        for _ in range(5):
            next(stream)
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < SECONDS:
            count += len(next(stream)[1]["label"])
        return count / (time.perf_counter() - begun)


def test_images_in_memory_are_more_than_a_v3_8_takes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)
    found = rate(ddx.data.from_object([{"image": image, "label": 0} for image in images]), 128)
    np.save(tmp_path / "x.npy", images)
    mapped = rate(ddx.data.load("array", directory=str(tmp_path / "x.npy")), 128)
    print(f"\n32 x 32 from an object {found:,.0f} a second, from an array {mapped:,.0f}; wanted {WANTED:,}")
    assert min(mapped, found) > WANTED


@pytest.mark.parametrize("side", [64, 256])
def test_a_decoded_copy_is_faster_than_files(photographs, tmp_path, side):
    size = Storage(memory_mib=0, disk_mib=2000, cache_dir=str(tmp_path), write=True)
    copy = rate(ddx.data.load("folder", directory=photographs, image_size=side, storage=size), 64)
    files = rate(ddx.data.load("folder", directory=photographs, image_size=side, storage=Storage(0, 0)), 64)
    print(
        f"\n{side} x {side}: {copy:,.0f} images a second from a decoded copy, {files:,.0f} from JPEG files of 256 x 256"
    )
    assert copy > 2 * files


@pytest.mark.parametrize(("side", "wanted"), [(128, 199), (256, 66)])
def test_photographs_as_large_as_imagenet_s_are_decoded_as_fast_as_a_host_takes_them(side, wanted, tmp_path):
    """`wanted` is what each host of adm_imagenet:128 and :upsampler takes; decoded copies would be too large."""
    rng = np.random.default_rng(0)
    for i in range(300):
        photograph(rng, 433).save(tmp_path / f"{i:04d}.jpg", quality=90)  # as many pixels as 500 x 375
    found = rate(ddx.data.load("folder", directory=str(tmp_path), image_size=side, storage=Storage(0, 0)), 64)
    print(f"\n{side} x {side}: {found:,.0f} images a second from JPEG files of 433 x 433")
    assert found > wanted


def decoded(path):
    return Conversion(3, (64, 64))(read_image(pathlib.Path(path)))


def test_threads_share_the_decoding(photographs):
    paths = sorted(map(str, pathlib.Path(photographs).iterdir())) * 10
    cores, spawned = os.cpu_count(), multiprocessing.get_context("spawn")

    def rate_of(pool):
        with pool:
            list(pool.map(decoded, paths[:200], chunksize=20))
            begun = time.perf_counter()
            list(pool.map(decoded, paths, chunksize=20))
            return len(paths) / (time.perf_counter() - begun)

    one = rate_of(concurrent.futures.ThreadPoolExecutor(1))
    threads = rate_of(concurrent.futures.ThreadPoolExecutor(cores))
    processes = rate_of(concurrent.futures.ProcessPoolExecutor(cores, mp_context=spawned))
    print(f"\nJPEG: one thread {one:,.0f} a second, {cores} threads {threads:,.0f}, {cores} processes {processes:,.0f}")
    assert threads > 1.2 * one
