"""Digit sources: every container gives the same digits, every fault one line, and nothing falls back in silence."""

import ast
import gzip
import hashlib
import inspect
import io
import itertools
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from patchwork.data import digits
from patchwork.data.digits import MNIST, UCI, Auto, Digits, NotFoundError
from patchwork.errors import ConfigError, DataError, ResourceError

CONF = Path(__file__).parents[2] / "conf/digits"
DIGESTS, ROOTS = digits.DIGESTS, digits.roots  # as they are before `world` replaces them
PLACES = [root / place for place in ("data/mnist", "../shared/data/mnist") for root in ROOTS()]
REAL = next((place for place in PLACES if not digits.missing(place)), None)
TRAIN, TEST = 41, 13
Write = Callable[[Path, dict[str, bytes]], None]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the working directory of an empty world without a network."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.setattr(digits, "roots", lambda: [here])
    monkeypatch.setattr(digits, "MIRRORS", ())
    monkeypatch.delenv("PATCHWORK_MNIST", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return here


@pytest.fixture
def contents(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small IDX files whose digests count as MNIST's."""
    rng, files = np.random.default_rng(0), {}
    for name in DIGESTS:
        n = TRAIN if name.startswith("train") else TEST
        if "images" in name:
            axes, data = (n, 28, 28), rng.integers(0, 256, (n, 28, 28))
        else:
            axes, data = (n,), rng.integers(0, 10, n)
        head = bytes([0, 0, 8, len(axes)]) + b"".join(axis.to_bytes(4, "big") for axis in axes)
        files[name] = head + data.astype(np.uint8).tobytes()
    monkeypatch.setattr(digits, "DIGESTS", {name: hashlib.md5(data).hexdigest() for name, data in files.items()})
    return files


def write_idx(
    folder: Path, contents: dict[str, bytes], spell: Callable[[int, str], str] = lambda _, name: name
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, (name, data) in enumerate(contents.items()):
        path = folder / spell(i, name)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_gzip(folder: Path, contents: dict[str, bytes]) -> None:
    write_idx(folder, contents, lambda _, name: f"{name}.gz")


def write_dotted(folder: Path, contents: dict[str, bytes]) -> None:
    write_idx(folder, contents, lambda _, name: name.replace("-idx", ".idx"))


def write_mixed(folder: Path, contents: dict[str, bytes]) -> None:
    spellings = ("{}.gz", "{}", "{}.gz", "{}")
    write_idx(folder, contents, lambda i, name: spellings[i].format(name.replace("-idx", ".idx") if i < 2 else name))


def write_shards(folder: Path, contents: dict[str, bytes], shards: int = 3) -> None:
    """As ylecun/mnist does, but cut in several shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, part in (("train", "train"), ("t10k", "test")):
        images = np.frombuffer(contents[f"{key}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(contents[f"{key}-labels-idx1-ubyte"], np.uint8, offset=8)
        for i, indices in enumerate(np.array_split(np.arange(len(labels)), shards)):
            cells = [{"bytes": png(images[j]), "path": f"{j}.png"} for j in indices]
            table = pa.table({"image": cells, "label": labels[indices].astype(np.int64)})
            pq.write_table(table, folder / f"{part}-{i:05}-of-{shards:05}.parquet")


def write_hub(folder: Path, contents: dict[str, bytes]) -> None:
    write_shards(folder / "mnist", contents, 1)


CONTAINERS = [write_idx, write_gzip, write_dotted, write_mixed, write_shards, write_hub]


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def tensors(source: Digits) -> list[torch.Tensor]:
    return [t for split in (source.train, source.val, source.test) for t in (split.images, split.labels)]


def same(a: Digits, b: Digits) -> bool:
    return a.digest == b.digest and all(map(torch.equal, tensors(a), tensors(b)))


def fails(error: type[Exception], call: Callable[[], object]) -> str:
    """Assert that `call` fails with `error` and one line; give that line."""
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- containers and splits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", CONTAINERS)
def test_every_container_gives_the_same_digits(tmp_path: Path, contents: dict[str, bytes], write: Write) -> None:
    write_idx(tmp_path / "reference", contents)
    write(tmp_path / "other", contents)
    reference = MNIST(root=str(tmp_path / "reference"), validation=7).load()
    other = MNIST(root=str(tmp_path / "other"), validation=7).load()
    assert same(reference, other)
    assert reference.name == "mnist"
    assert (
        reference.digest
        == hashlib.sha256(b"".join(c[16 if "images" in n else 8 :] for n, c in contents.items())).hexdigest()
    )
    assert other.test.images.numpy().tobytes() == contents["t10k-images-idx3-ubyte"][16:]


@pytest.mark.parametrize("validation", [1, 7, TRAIN - 1])
def test_train_and_validation_are_the_whole_training_part_each_image_once(
    world: Path, contents: dict[str, bytes], validation: int
) -> None:
    write_idx(world / "data/mnist", contents)
    source, again = (MNIST(validation=validation).load() for _ in range(2))
    assert same(source, again)
    assert len(source.val.images) == len(source.val.labels) == validation
    cut = [image.numpy().tobytes() for split in (source.train, source.val) for image in split.images]
    pixels = contents["train-images-idx3-ubyte"][16:]
    assert sorted(cut) == sorted(pixels[i : i + 784] for i in range(0, len(pixels), 784))
    for split, n in ((source.train, TRAIN - validation), (source.val, validation), (source.test, TEST)):
        assert split.images.shape == (n, 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.shape == (n,)
        assert split.labels.dtype == torch.int64


def test_the_cut_is_not_the_runs(world: Path, contents: dict[str, bytes]) -> None:
    write_idx(world / "data/mnist", contents)
    torch.manual_seed(1)
    state, source = torch.get_rng_state(), MNIST(validation=7).load()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert same(source, MNIST(validation=7).load())


def test_the_digest_does_not_depend_on_the_cut(world: Path, contents: dict[str, bytes]) -> None:
    write_idx(world / "data/mnist", contents)
    assert MNIST(validation=3).load().digest == MNIST(validation=9).load().digest


def test_digits_are_tensors_of_their_own() -> None:
    parts = [np.ones(shape, np.uint8) for shape in ((TRAIN, 28, 28), (TRAIN,), (TEST, 28, 28), (TEST,))]
    for tensor in tensors(digits.cut("mnist", parts, 7)):
        tensor.fill_(0)
    assert all(part.all() for part in parts)


def test_a_raw_file_wins_over_its_gzip(world: Path, contents: dict[str, bytes]) -> None:
    write_idx(world / "data/mnist", contents)
    write_gzip(world / "data/mnist", dict.fromkeys(contents, b"never read"))
    assert MNIST(validation=7).load().name == "mnist"


@pytest.mark.parametrize("validation", [TRAIN, TRAIN + 1])
def test_a_validation_that_leaves_nothing_to_train_on_is_refused(
    world: Path, contents: dict[str, bytes], validation: int
) -> None:
    write_idx(world / "data/mnist", contents)
    line = fails(ConfigError, MNIST(validation=validation).load)
    assert f"digits.validation={validation}" in line
    assert str(TRAIN - 1) in line


@pytest.mark.skipif(REAL is None, reason="MNIST is not on this machine")
def test_mnist_itself(tmp_path: Path) -> None:
    source = MNIST(root=str(REAL)).load()
    assert [len(split.labels) for split in (source.train, source.val, source.test)] == [55_000, 5_000, 10_000]
    assert source.digest == "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
    assert source.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    images, labels = source.test.images.numpy(), source.test.labels.numpy()
    for i, half in enumerate((slice(0, 5_000), slice(5_000, None))):
        cells = [{"bytes": png(image), "path": ""} for image in images[half]]
        pq.write_table(pa.table({"image": cells, "label": labels[half]}), tmp_path / f"test-{i}.parquet")
    read = list(digits.read_parquet("t10k", digits.parquet_files(tmp_path)["t10k"]))
    assert np.array_equal(read[0], images)
    assert np.array_equal(read[1], labels)


def test_uci() -> None:
    source, again = UCI().load(), UCI().load()
    assert same(source, again)
    assert source.name == "uci"
    assert source.digest == "e5798831de07f2da97d5fe9e28a251722cec6074168e55420b58db28e20fd61b"
    assert [len(split.labels) for split in (source.train, source.val, source.test)] == [1257, 180, 360]
    for split in (source.train, source.val, source.test):
        assert split.images.shape == (len(split.labels), 28, 28)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.unique().tolist() == list(range(10))
        assert split.images.amax() == 255
        ink = split.images.clone()
        ink[:, 4:24, 4:24] = 0
        assert not ink.any()  # an empty margin of 4
        assert (split.images.flatten(1).amax(1) > 200).all()
    assert len(torch.cat([source.train.images, source.val.images]).unique(dim=0)) > 1400
    assert "digits.validation=1437" in fails(ConfigError, UCI(validation=1437).load)


# --- where it is looked for ------------------------------------------------------------------------------------------


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    roots = [tmp_path / "a/here", tmp_path / "b/checkout"]
    monkeypatch.setattr(digits, "roots", lambda: roots)
    places = [root / place for place in ("data/mnist", "../shared/data/mnist") for root in roots]
    everywhere = [tmp_path / "root", tmp_path / "variable", *places]
    for root in roots:
        root.mkdir(parents=True)
    for folder in everywhere:
        write_gzip(folder, contents)
    monkeypatch.setenv("PATCHWORK_MNIST", str(everywhere[1]))
    assert MNIST(root=str(everywhere[0])).find() == everywhere[0]
    assert MNIST().find() == everywhere[1]
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("PATCHWORK_MNIST")
        else:
            monkeypatch.setenv("PATCHWORK_MNIST", unset)
        assert MNIST().find() == places[0]
    for folder, following in itertools.pairwise(places):
        next(folder.iterdir()).unlink()  # a part does not hide the whole that follows
        assert MNIST().find() == following


def test_the_repository_is_the_working_directory_and_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkout = Path(digits.__file__).parents[3]
    assert ROOTS() == [tmp_path, checkout]
    monkeypatch.chdir(checkout)
    assert ROOTS() == [checkout]
    monkeypatch.setattr(digits, "__file__", str(tmp_path / "lib/python/site-packages/patchwork/data/digits.py"))
    assert ROOTS() == [checkout]


@pytest.mark.parametrize("source", [MNIST, Auto])
@pytest.mark.parametrize("key", ["digits.root", "PATCHWORK_MNIST"])
def test_a_folder_that_is_named_must_hold_mnist(
    world: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes], source: type[MNIST], key: str
) -> None:
    write_idx(world / "data/mnist", contents)  # which would do, but was not meant
    folder = world / "elsewhere"
    monkeypatch.setenv("PATCHWORK_MNIST", str(folder))
    load = source(root=str(folder) if key == "digits.root" else None).load
    assert f"{key}='{folder}' is not a folder: allowed is" in fails(DataError, load)
    write_idx(folder, dict(list(contents.items())[:3]))
    assert f"{key}='{folder}' lacks t10k-labels-idx1-ubyte: allowed is" in fails(DataError, load)


def test_a_home_is_expanded(world: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    monkeypatch.setenv("HOME", str(world))
    write_idx(world / "digits", contents)
    assert MNIST(root="~/digits").find() == world / "digits"


def test_constructing_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in ("glob", "rglob", "is_dir", "read_bytes", "mkdir"):
        monkeypatch.setattr(Path, call, None)
    UCI(validation=3), MNIST(root="/nowhere"), Auto(root="/nowhere", download=True)


def test_importing_costs_torch_and_numpy_only() -> None:
    tree = ast.parse(inspect.getsource(digits))
    names = [a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert foreign == {"numpy", "torch", "annotated_types", "patchwork"}


@pytest.mark.parametrize("name", ["auto", "mnist", "uci"])
def test_config_keys_are_the_constructors_arguments(name: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    module, _, source = config.pop("_target_").rpartition(".")
    assert module == digits.__name__
    parameters = inspect.signature(getattr(digits, source)).parameters
    assert config == {key: parameter.default for key, parameter in parameters.items()}


# --- damage ----------------------------------------------------------------------------------------------------------

DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated gzip": (lambda c: gzip.compress(c)[:-20], "end-of-stream"),
    "flipped gzip": (lambda c: (z := gzip.compress(c))[:40] + bytes([z[40] ^ 255]) + z[41:], "cannot be read"),
    "padded gzip": (lambda c: gzip.compress(c) + b"more", "cannot be read"),
    "gzip of something else": (lambda c: gzip.compress(b"<html>"), "magic number is 3c68746d, expected 000008"),
    "wrong magic": (lambda c: b"\0\0\x09" + c[3:], "magic number is 000009"),
    "too short": (lambda c: c[:-1], "size in bytes is"),
    "too long": (lambda c: c + b"\0", "size in bytes is"),
    "wrong count": (lambda c: c[:4] + b"\xff\xff\xff\xff" + c[8:], "size in bytes is"),
    "no content": (lambda c: b"", "magic number is missing"),
    "half a header": (lambda c: c[:6], "header is"),
    "wrong content": (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "MD5 of the content is"),
}


@pytest.mark.parametrize("name", DIGESTS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_that_names_the_file(world: Path, contents: dict[str, bytes], kind: str, name: str) -> None:
    damage, says = DAMAGE[kind]
    write_idx(world / "data/mnist", contents)
    path = world / "data/mnist" / name
    path.write_bytes(damage(contents[name]))
    for source in (MNIST(validation=7), Auto(validation=7)):
        line = fails(DataError, source.load)
        assert str(path) in line
        assert says in line
        assert "expected" in line


def test_wrong_image_size_is_damage(world: Path, contents: dict[str, bytes]) -> None:
    name = "t10k-images-idx3-ubyte"
    contents[name] = contents[name][:8] + bytes([0, 0, 0, 14, 0, 0, 0, 56]) + contents[name][16:]
    write_idx(world / "data/mnist", contents)
    assert "header is" in fails(DataError, MNIST(validation=7).load)


def test_no_damaged_byte_of_a_gzip_passes_unseen(world: Path, contents: dict[str, bytes]) -> None:
    folder = world / "data/mnist"
    write_gzip(folder, contents)
    path = folder / "train-labels-idx1-ubyte.gz"
    whole, reference = path.read_bytes(), MNIST(validation=7).load()
    for i in range(len(whole)):
        for damaged in (whole[:i], whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :]):
            path.write_bytes(damaged)
            try:
                passed = same(reference, MNIST(validation=7).load())  # a date in the header, say
            except DataError as error:
                passed = str(error).startswith(str(path)) and "\n" not in str(error)
            assert passed, i


def test_a_file_that_cannot_be_read(world: Path, contents: dict[str, bytes]) -> None:
    write_idx(world / "data/mnist", contents)
    path = world / "data/mnist/train-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()
    assert f"{path} cannot be read" in fails(DataError, MNIST(validation=7).load)


def test_a_part_of_mnist_is_damage(world: Path, contents: dict[str, bytes]) -> None:
    write_gzip(world / "data/mnist", contents)
    (world / "data/mnist/t10k-labels-idx1-ubyte.gz").unlink()
    for source in (MNIST(download=False), Auto(download=False), MNIST(), Auto()):
        line = fails(DataError, source.load)
        assert f"{world / 'data/mnist'} lacks t10k-labels-idx1-ubyte" in line


PARQUET_DAMAGE = ["truncated", "foreign", "columns", "png", "no image", "size", "colour", "label", "other label"]
PARQUET_DAMAGE += ["other pixel", "order", "rows"]


def broken_parquet(kind: str, path: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    cells, labels = table["image"].to_pylist(), table["label"].to_pylist()
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-10])
            return
        case "foreign":
            path.write_bytes(b"<html>\nnot here\n</html>")
            return
        case "columns":
            pq.write_table(table.rename_columns(["picture", "label"]), path)
            return
        case "png":
            cells[1]["bytes"] = cells[1]["bytes"][:60]
        case "no image":
            cells[1] = None
        case "size":
            cells[1]["bytes"] = png(np.zeros((28, 29), np.uint8))
        case "colour":
            cells[1]["bytes"] = png(np.zeros((28, 28, 3), np.uint8))
        case "label":
            labels[1] = -1
        case "other label":
            labels[1] = 9 - labels[1]
        case "other pixel":
            cells[1]["bytes"] = png(np.zeros((28, 28), np.uint8))
        case "order":
            cells = cells[::-1]
        case "rows":
            cells, labels = cells[1:], labels[1:]
    pq.write_table(pa.table({"image": cells, "label": labels}), path)


@pytest.mark.parametrize("kind", PARQUET_DAMAGE)
def test_damaged_parquet_is_one_line_that_names_the_file(world: Path, contents: dict[str, bytes], kind: str) -> None:
    write_hub(world / "data/mnist", contents)
    path = world / "data/mnist/mnist/train-00000-of-00001.parquet"
    broken_parquet(kind, path)
    for source in (MNIST(validation=7), Auto(validation=7)):
        line = fails(DataError, source.load)
        assert str(path) in line
        assert "expected" in line


def test_a_missing_shard_is_damage(world: Path, contents: dict[str, bytes]) -> None:
    write_shards(world / "data/mnist", contents)
    (world / "data/mnist/train-00001-of-00003.parquet").unlink()
    assert "MD5" in fails(DataError, MNIST(validation=7).load)


@pytest.mark.parametrize("module", ["pyarrow", "PIL"])
def test_parquet_without_its_extra(
    world: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes], module: str
) -> None:
    write_hub(world / "data/mnist", contents)
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'patchwork[parquet]'" in fails(DataError, MNIST(validation=7).load)


# --- absence ---------------------------------------------------------------------------------------------------------


def test_strict_absence_says_where_it_looked_and_what_to_do(world: Path) -> None:
    for download in (False, True):
        line = fails(NotFoundError, MNIST(download=download).load)
        for word in (world / "data/mnist", world / "../shared/data/mnist", "PATCHWORK_MNIST", "digits.root"):
            assert str(word) in line
    assert not any((world / "data/mnist").glob("*"))


def test_auto_falls_back_under_a_warning_that_nobody_can_miss(world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = Auto(download=False).load()
    out, err = capfd.readouterr()
    assert same(source, UCI().load())
    assert not out
    lines = err.splitlines()
    assert len(lines) > 6
    assert set(lines[0]) == set(lines[-1]) == {"#"}
    assert all(line.startswith("##") for line in lines)
    assert err.isascii()
    said = " ".join(word for line in lines for word in line.strip("# ").split())
    for phrase in ("NOT MNIST results", "digits.download is false", "data/mnist", "PATCHWORK_MNIST", "digits.root"):
        assert phrase in said


def test_auto_takes_mnist_where_it_is(
    world: Path, contents: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    write_gzip(world / "data/mnist", contents)
    assert same(Auto(validation=7).load(), MNIST(validation=7).load())
    assert capfd.readouterr() == ("", "")


# --- the download ----------------------------------------------------------------------------------------------------


class Mirror(ThreadingHTTPServer):
    """An HTTP server on this machine; `faults` says what its next GETs meet, "ok" when they are used up."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], faults: Iterator[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.gets, self.closing = files, faults, 0, threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/mnist/"


class Handler(BaseHTTPRequestHandler):
    server: Mirror

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path.split("/")[-1] in self.server.files else 404)
        self.end_headers()

    def do_GET(self) -> None:
        body, fault = self.server.files[self.path.split("/")[-1]], next(self.server.faults, "ok")
        self.server.gets += 1
        self.send_response(404 if fault == "gone" else 200)
        body = {"page": b"<html>Please log in</html>", "other": gzip.compress(b"not digits")}.get(fault, body)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault in ("dies", "stalls") else body)
        if fault == "stalls":
            self.wfile.flush()
            self.server.closing.wait(10)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(contents: dict[str, bytes]) -> Iterator[Callable[..., Mirror]]:
    mirrors: list[Mirror] = []

    def start(*faults: str, always: str | None = None, files: bool = True) -> Mirror:
        packed = {f"{name}.gz": gzip.compress(data) for name, data in contents.items()} if files else {}
        mirrors.append(Mirror(packed, iter(lambda: always, "") if always else iter(faults)))
        threading.Thread(target=mirrors[-1].serve_forever, args=(0.01,), daemon=True).start()
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.closing.set()
        mirror.shutdown()
        mirror.server_close()


def refused() -> str:
    """Give an address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/mnist/"


def test_a_download_is_whole_checked_quiet_and_kept(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    contents: dict[str, bytes],
    serve: Callable[..., Mirror],
    capfd: pytest.CaptureFixture[str],
) -> None:
    mirror, log = serve(), io.StringIO()
    monkeypatch.setattr(digits, "MIRRORS", (mirror.url,))
    monkeypatch.setattr(pooch.get_logger(), "handlers", [logging.StreamHandler(log)])
    pooch.get_logger().setLevel("INFO")  # as pooch would have it
    source = MNIST(validation=7).load()
    assert not log.getvalue()
    assert capfd.readouterr() == ("", "")
    write_idx(world / "elsewhere", contents)
    assert same(source, MNIST(root=str(world / "elsewhere"), validation=7).load())
    assert sorted(path.name for path in (world / "data/mnist").iterdir()) == sorted(f"{name}.gz" for name in contents)
    assert mirror.gets == 4
    assert same(source, Auto(validation=7).load())
    assert mirror.gets == 4


def test_a_download_goes_into_the_checkout_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    monkeypatch.setattr(digits, "MIRRORS", (serve().url,))
    monkeypatch.setattr(digits, "roots", lambda: [tmp_path / "a/here", tmp_path / "b/checkout"])
    assert MNIST().find() == tmp_path / "b/checkout/data/mnist"
    assert not (tmp_path / "a").exists()


def test_a_terminal_sees_the_progress(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror], capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = serve()
    monkeypatch.setattr(digits, "MIRRORS", (mirror.url,))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    MNIST(validation=7).load()
    err = capsys.readouterr().err
    assert f"Fetching {mirror.url}train-images-idx3-ubyte.gz" in err
    assert "100%" in err


@pytest.mark.parametrize("fault", ["page", "other", "dies", "stalls", "gone"])
def test_a_passing_fault_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror], fault: str
) -> None:
    mirror = serve("ok", fault, fault)
    monkeypatch.setattr(digits, "MIRRORS", (mirror.url,))
    monkeypatch.setattr(digits, "TIMEOUT", (1.0, 0.3))
    assert MNIST(validation=7).load().name == "mnist"
    assert mirror.gets == 4 + 2


@pytest.mark.parametrize("fault", ["page", "other", "dies", "stalls", "gone", "404", "refused"])
def test_a_bad_mirror_is_made_up_for_by_the_other(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror], fault: str
) -> None:
    bad = refused() if fault == "refused" else serve(always=fault, files=fault != "404").url
    monkeypatch.setattr(digits, "MIRRORS", (bad, serve().url))
    monkeypatch.setattr(digits, "TIMEOUT", (1.0, 0.3))
    assert MNIST(validation=7).load().name == "mnist"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("page", "damaged or foreign: magic number"),
        ("other", "damaged or foreign: magic number"),
        ("dies", "ChunkedEncodingError"),
        ("stalls", "ConnectionError"),
        ("gone", "HTTPError"),
        ("404", "status 404"),
        ("refused", "ConnectionError"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., Mirror],
    capfd: pytest.CaptureFixture[str],
    fault: str,
    says: str,
) -> None:
    bad = refused() if fault == "refused" else serve(always=fault, files=fault != "404").url
    monkeypatch.setattr(digits, "MIRRORS", (bad,))
    monkeypatch.setattr(digits, "TIMEOUT", (1.0, 0.2))
    line = fails(NotFoundError, MNIST().load)
    for word in (f"{bad}train-images-idx3-ubyte.gz", says, world / "data/mnist", "PATCHWORK_MNIST", "digits.root"):
        assert str(word) in line
    assert not list((world / "data/mnist").rglob("*"))
    assert capfd.readouterr() == ("", "")
    assert Auto().load().name == "uci"
    assert says in " ".join(word for row in capfd.readouterr().err.splitlines() for word in row.strip("# ").split())


def test_a_download_that_fails_at_the_last_file_leaves_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    monkeypatch.setattr(digits, "MIRRORS", (serve("ok", "ok", "ok", "dies", "page", "gone").url,))
    assert Auto().load().name == "uci"
    assert not list((world / "data/mnist").rglob("*"))


def test_a_part_of_mnist_is_completed(
    world: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes], serve: Callable[..., Mirror]
) -> None:
    write_gzip(world / "data/mnist", dict(list(contents.items())[:2]))
    monkeypatch.setattr(digits, "MIRRORS", (serve().url,))
    assert MNIST(validation=7).load().name == "mnist"


def test_a_refusal_is_told_at_once_and_silence_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "MIRRORS", (refused(), refused()))
    start = time.monotonic()
    fails(NotFoundError, MNIST().load)
    assert time.monotonic() - start < 2
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(digits, "MIRRORS", (url, url))
        monkeypatch.setattr(digits, "PATIENCE", 0.3)
        start = time.monotonic()
        assert "no answer within 0.3 s" in fails(NotFoundError, MNIST().load)
        assert time.monotonic() - start < 2


def test_a_folder_that_cannot_be_written_is_a_resource(
    world: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]
) -> None:
    monkeypatch.setattr(digits, "MIRRORS", (serve().url,))
    (world / "data").write_text("in the way")
    assert f"{world / 'data/mnist'} cannot be written" in fails(ResourceError, MNIST(validation=7).load)
    assert Auto().load().name == "uci"


def test_a_full_disk_is_a_resource(world: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Mirror]) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(digits, "MIRRORS", (serve().url,))
    monkeypatch.setattr("pooch.core.shutil.move", full)
    assert "No space left" in fails(ResourceError, MNIST(validation=7).load)
    assert not list((world / "data/mnist").rglob("*"))
