"""The peers' side of `speed.py`: the same work by PyTorch, Lucent, torchattacks and Foolbox.

Runs in the peers' environment (`requirements.txt`) and imports nothing of this project. Networks are written plainly
here, with torchvision's names, and take images in [0, 1] as ours do.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from turns import Missing, serve

RATE = 1e-3
CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
FIRES = {3: (96, 16, 64), 4: (128, 16, 64), 5: (128, 32, 128), 7: (256, 32, 128), 8: (256, 48, 192),
         9: (384, 48, 192), 10: (384, 64, 256), 12: (512, 64, 256)}  # fmt: skip
PLACES = {"fire2": 3, "fire3": 4, "fire4": 5, "fire5": 7, "fire6": 8, "fire7": 9, "fire8": 10, "fire9": 12}
POOLS = (2, 6, 11)


def images_of(request: dict[str, Any]) -> np.ndarray:
    with np.load(request["images"]) as file:
        return file["images"]


# ---- networks in PyTorch ---------------------------------------------------------------------------------------------


def torch_device() -> Any:
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def squeezenet(weights: str) -> Any:
    """SqueezeNet 1.0 without dropout."""
    import torch
    from torch import nn

    class Fire(nn.Module):
        def __init__(self, channels: int, squeeze: int, expand: int) -> None:
            super().__init__()
            self.squeeze = nn.Conv2d(channels, squeeze, 1)
            self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
            self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            x = self.relu(self.squeeze(x))
            return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], 1)

    class SqueezeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts = [nn.Conv2d(3, 96, 7, 2), nn.ReLU()]
            for n in range(2, 13):
                parts.append(nn.MaxPool2d(3, 2, ceil_mode=True) if n in POOLS else Fire(*FIRES[n]))
            self.features = nn.Sequential(*parts)
            self.classifier = nn.Sequential(
                nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1))
            )

        def forward(self, x: Any) -> Any:
            return torch.flatten(self.classifier(self.features(x)), 1)

    network = SqueezeNet()
    with np.load(weights) as state:
        network.load_state_dict({name: torch.from_numpy(state[name]) for name in state.files})
    return network.eval().requires_grad_(False)


def vgg(name: str, head: bool = True) -> Any:
    """VGG with the random weights of `random_state`, and ImageNet's normalization in front of it."""
    import torch
    from peer_state import random_state
    from torch import nn

    class VGG(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts: list[Any] = []
            channels = 3
            for width, count in zip(WIDTHS, CONVOLUTIONS[name], strict=True):
                for _ in range(count):
                    parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                    channels = width
                parts.append(nn.MaxPool2d(2, 2))
            self.features = nn.Sequential(*parts)
            self.classifier = nn.Sequential(
                nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
                nn.Linear(4096, 1000),
            )  # fmt: skip
            self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

        def forward(self, x: Any) -> Any:
            return self.classifier(torch.flatten(self.features((x - self.mean) / self.std), 1))

    with torch.device("meta"):
        network = VGG()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network = network.to_empty(device="cpu")
    network.mean.copy_(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    network.std.copy_(torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
    network.load_state_dict({key: torch.from_numpy(value) for key, value in random_state(shapes).items()})
    if not head:
        del network.classifier
    return network.eval().requires_grad_(False)


def torch_network(request: dict[str, Any]) -> Any:
    return squeezenet(request["weights"]) if request["model"] == "squeezenet" else vgg(request["model"])


def torch_images(request: dict[str, Any], device: Any) -> Any:
    """`[N, C, H, W]`."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images_of(request).transpose(0, 3, 1, 2))).to(device)


# ---- work ------------------------------------------------------------------------------------------------------------


def gradient(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """Steps down the bare gradient of a class's logit: eager in either layout, or compiled."""
    import torch

    device = torch_device()
    network, x = torch_network(request).to(device), torch_images(request, device)
    if request["peer"] == "torch-compile":
        if not shutil.which("c++") and not shutil.which("g++"):
            raise Missing("torch.compile needs a C++ compiler, and there is none")
        network = torch.compile(network)
    if request["peer"] != "torch-contiguous":
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)

    def value_and_gradient(x: Any) -> tuple[Any, Any]:
        leaf = x.detach().requires_grad_()
        value = -network(leaf)[:, request["class"]].sum()
        return value, torch.autograd.grad(value, leaf)[0]

    def run() -> Any:
        at = x
        for _ in range(request["steps"]):
            at = at - RATE * value_and_gradient(at)[1]
        return at.cpu()

    value, slope = value_and_gradient(x)
    return run, {"check": [float(value.detach()), float(slope.norm())], "version": f"torch {torch.__version__}"}


def lucent(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """One channel with Lucent's defaults, which are Lucid's."""
    import lucent_worker
    import torch

    network = squeezenet(request["weights"]).to(torch_device())
    objective = lucent_worker.objectives.channel(f"features_{PLACES[request['layer']]}", request["channel"])

    def run() -> Any:
        return lucent_worker.render.render_vis(
            network,
            objective,
            param_f=lambda: lucent_worker.param.image(request["size"]),
            thresholds=(request["steps"],),
            preprocess=False,
            progress=False,
            show_image=False,
        )

    return run, {"version": f"torch-lucent {version('torch-lucent')}, torch {torch.__version__}"}


def torch_attack(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """torchattacks' PGD, and AutoAttack's APGD as it ships it; Foolbox's PGD on PyTorch."""
    import torch

    device = torch_device()
    network, x = torch_network(request).to(device), torch_images(request, device)
    with torch.no_grad():
        labels = network(x).argmax(-1)
    epsilon, steps = request["epsilon"], request["steps"]
    if request["peer"] == "foolbox-torch":
        import foolbox

        wrapped = foolbox.PyTorchModel(network, bounds=(0, 1), device=device)
        method = foolbox.attacks.LinfPGD(abs_stepsize=request["step"], steps=steps, random_start=True)
        told = {"version": f"foolbox {version('foolbox')}, torch {torch.__version__}"}
        return lambda: method.run(wrapped, x, labels, epsilon=epsilon).cpu(), told
    import torchattacks

    if request["work"] == "pgd":
        attack = torchattacks.PGD(network, eps=epsilon, alpha=request["step"], steps=steps, random_start=True)
    else:
        attack = torchattacks.APGD(network, eps=epsilon, steps=steps, n_restarts=1, loss="ce")
    told = {"version": f"torchattacks {version('torchattacks')}, torch {torch.__version__}"}
    return lambda: attack(x, labels).cpu(), told


def foolbox_jax(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """Foolbox's PGD on JAX, the network a plain jitted function of `jax.lax`."""
    import foolbox
    import jax
    import jax.numpy as jnp

    with np.load(request["weights"]) as file:
        state = {name: jnp.asarray(file[name]) for name in file.files}

    def conv(name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
        kernel, pads = state[f"{name}.weight"].transpose(2, 3, 1, 0), [(padding, padding)] * 2
        y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y + state[f"{name}.bias"])

    def pool(x: Any) -> Any:
        hang = [(0, -(size - 3) % 2) for size in x.shape[1:3]]
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), *hang, (0, 0)])

    @jax.jit
    def network(x: Any) -> Any:
        x = conv("features.0", x, 2)
        for n in range(2, 13):
            if n in POOLS:
                x = pool(x)
                continue
            squeezed = conv(f"features.{n}.squeeze", x)
            wide = conv(f"features.{n}.expand3x3", squeezed, padding=1)
            x = jnp.concatenate([conv(f"features.{n}.expand1x1", squeezed), wide], -1)
        return conv("classifier.1", x).mean((1, 2))

    x = jnp.asarray(images_of(request))
    labels = network(x).argmax(-1)
    wrapped = foolbox.JAXModel(network, bounds=(0, 1))
    method = foolbox.attacks.LinfPGD(abs_stepsize=request["step"], steps=request["steps"], random_start=True)
    told = {"version": f"foolbox {version('foolbox')}, jax {jax.__version__}"}
    return lambda: method.run(wrapped, x, labels, epsilon=request["epsilon"]).block_until_ready(), told


def style(request: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """The usual neural-style loop: a network cut behind its last layer, Gram matrices, content, Adam on pixels."""
    import torch

    device = torch_device()
    network = vgg(request["model"], head=False).to(device).to(memory_format=torch.channels_last)
    names: dict[int, str] = {}
    place = 0
    for block, count in enumerate(CONVOLUTIONS[request["model"]], start=1):
        for k in range(1, count + 1):
            names[place + 1] = f"relu{block}_{k}"
            place += 2
        place += 1
    wanted = {request["content"], *request["styles"]}
    last = max(place for place, name in names.items() if name in wanted)
    layers = list(network.features)[: last + 1]

    def features(x: Any) -> dict[str, Any]:
        x, found = (x - network.mean) / network.std, {}
        for place, layer in enumerate(layers):
            x = layer(x)
            if names.get(place) in wanted:
                found[names[place]] = x
        return found

    def gram(map_: Any) -> Any:
        flat = map_.flatten(2)[0]
        return flat @ flat.T / flat.shape[1]

    content, painting = torch_images(request, device).contiguous(memory_format=torch.channels_last).split(1)
    kept = features(content)[request["content"]]
    grams = {name: gram(map_) for name, map_ in features(painting).items() if name in request["styles"]}

    def run() -> Any:
        x = content.clone().requires_grad_()
        rule = torch.optim.Adam([x], lr=0.02)
        for _ in range(request["steps"]):
            rule.zero_grad()
            found = features(x)
            loss = (found[request["content"]] - kept).square().mean()
            for name in request["styles"]:
                loss = loss + request["weight"] * (gram(found[name]) - grams[name]).square().mean()
            loss.backward()
            rule.step()
            with torch.no_grad():
                x.clamp_(0, 1)
        return x.detach().cpu()

    return run, {"version": f"torch {torch.__version__}"}


PEERS = {
    "torch-channels-last": gradient,
    "torch-contiguous": gradient,
    "torch-compile": gradient,
    "lucent": lucent,
    "torchattacks": torch_attack,
    "foolbox-torch": torch_attack,
    "foolbox-jax": foolbox_jax,
    "torch-style": style,
}


def prepare(request: dict[str, Any]) -> tuple[Callable[[], float], dict[str, Any]]:
    peer = PEERS[request["peer"]]
    run, told = peer(request)

    def seconds() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    long = request["work"] in ("pgd", "apgd") and peer is not foolbox_jax  # which compiles for the run itself
    (peer({**request, "steps": 1})[0] if long else run)()  # what is compiled or allocated first
    return seconds, told


if __name__ == "__main__":
    serve(prepare)
