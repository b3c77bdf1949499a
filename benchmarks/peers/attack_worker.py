"""The peers' side of `attacks.py`: reads a request, attacks the same network in PyTorch, writes what it saw.

Runs in the peers' environment (`attack-requirements.txt`) and imports nothing of this project.
"""

import inspect
import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

BGR_MEAN = (104.0, 117.0, 123.0)


class Network(nn.Module):
    """A network of the project from its weights by name, kernels as `[h, w, in, out]`; images `[N, C, H, W]`."""

    def __init__(self, weights: dict[str, np.ndarray], config: dict) -> None:
        super().__init__()
        self.config = config
        self.weights = {
            name: torch.from_numpy(np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value))
            for name, value in weights.items()
        }
        self.unused = nn.Parameter(torch.zeros(1))  # peers ask for the device of the first parameter

    def conv(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel = self.weights[f"{name}/kernel"]
        pad = kernel.shape[-1] // 2 if stride == 1 else 0
        return functional.conv2d(x, kernel, self.weights[f"{name}/bias"], stride, pad)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.squeezenet(image) if self.config["architecture"] == "SqueezeNet" else self.small(image)

    def squeezenet(self, image: torch.Tensor) -> torch.Tensor:
        x = 255 * image.flip(1) - torch.tensor(BGR_MEAN).view(3, 1, 1)
        x = functional.max_pool2d(self.conv("conv1", x, 2).relu(), 3, 2, ceil_mode=True)
        for i in range(2, 10):
            squeezed = self.conv(f"fire{i}/squeeze1x1", x).relu()
            x = torch.cat([self.conv(f"fire{i}/{part}", squeezed).relu() for part in ("expand1x1", "expand3x3")], 1)
            if i in (4, 8):
                x = functional.max_pool2d(x, 3, 2, ceil_mode=True)
        return self.conv("conv10", x).relu().mean((2, 3))

    def small(self, image: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(self.config[name]).view(-1, 1, 1) for name in ("mean", "std"))
        x = (image - mean) / std
        if self.config["patch"] == 2:  # the channels of a patch lie as [row, column, color]
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)
        x = self.conv("conv1", x).relu()
        for index, (_, residuals) in enumerate(self.config["stages"], start=2):
            x = functional.max_pool2d(x, 2) if index > 2 else x
            x = self.conv(f"block{index}_conv1", x).relu()
            for k in range(residuals):
                x = (x + self.conv(f"block{index}_conv{k + 2}", x)).relu()
        return functional.linear(x.mean((2, 3)), self.weights["logits/kernel"].T, self.weights["logits/bias"])


class Watched(nn.Module):
    """The network, keeping each image it is differentiated at, and the step size of the loop that asks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.images, self.sizes = network, [], []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = self.network(image)
        if image.requires_grad:
            self.images.append(image.detach().numpy().copy())
            frame = inspect.currentframe()
            while frame and "step_size" not in frame.f_locals:
                frame = frame.f_back
            if frame:  # the peers' APGD names it so
                self.sizes.append(frame.f_locals["step_size"].flatten().numpy().copy())
        return logits


class ChannelsLast(nn.Module):
    """The network, its convolutions in the other memory layout."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.requires_grad:
            image.register_hook(torch.Tensor.contiguous)  # the authors take views of the gradient
        return self.network(image.contiguous(memory_format=torch.channels_last))


def foolbox_images(model: nn.Module, attack: object, images: torch.Tensor, labels: torch.Tensor, epsilon: float):
    import foolbox

    wrapped = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    return attack(wrapped, images, foolbox.criteria.Misclassification(labels), epsilons=epsilon)[1]


def steps(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, request: dict) -> dict[str, np.ndarray]:
    """FGSM's image, and every iterate of PGD from the original, of both libraries: `[1, …]` and `[steps + 1, …]`."""
    import foolbox.attacks
    import torchattacks

    epsilon, step, count = request["epsilon"], request["step"], request["steps"]
    found = {}
    for peer in ("torchattacks", "foolbox"):
        for name in ("fgsm", "pgd"):
            watched = Watched(network)
            if peer == "torchattacks":
                if name == "fgsm":
                    last = torchattacks.FGSM(watched, eps=epsilon)(images, labels)
                else:
                    attack = torchattacks.PGD(watched, eps=epsilon, alpha=step, steps=count, random_start=False)
                    last = attack(images, labels)
            elif name == "fgsm":
                attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
                last = foolbox_images(watched, attack, images, labels, epsilon)
            else:
                attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=count, random_start=False)
                last = foolbox_images(watched, attack, images, labels, epsilon)
            found[f"{peer}/{name}"] = np.stack([*watched.images, last.detach().numpy()])
    return found


def apgd(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, request: dict) -> dict[str, np.ndarray]:
    """APGD's iterates and step sizes, of torchattacks and of the authors: `[steps + 1, N, …]`, `[steps, N]`."""
    import pyautoattack.autopgd_base
    import torchattacks

    epsilon, count, loss = request["epsilon"], request["steps"], request["loss"]
    found = {}
    for peer in ("torchattacks", "authors", "authors, channels last"):
        watched = Watched(ChannelsLast(network) if peer == "authors, channels last" else network)
        if peer == "torchattacks":
            attack = torchattacks.APGD(watched, norm="Linf", eps=epsilon, steps=count, n_restarts=1, seed=0, loss=loss)
            attack(images, labels)
        else:
            attack = pyautoattack.autopgd_base.APGDAttack(
                watched, n_iter=count, norm="Linf", n_restarts=1, eps=epsilon, seed=0, loss=loss, device="cpu"
            )
            with torch.no_grad():
                attack.perturb(images, labels)
        # The first image is seen before there is a step size.
        found[f"{peer}/images"], found[f"{peer}/sizes"] = np.stack(watched.images), np.stack(watched.sizes)
    return found


def autoattack(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, request: dict) -> dict[str, np.ndarray]:
    """The standard AutoAttack of its authors: which images it breaks, and its images."""
    import pyautoattack

    attack = pyautoattack.AutoAttack(network, norm="Linf", eps=request["epsilon"], seed=0, version="standard")
    began = time.process_time()
    adversarial, predicted = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    seconds = time.process_time() - began
    return {
        "images": adversarial.numpy(),
        "broken": (predicted != labels).numpy(),
        "processor_seconds": np.array(seconds),
    }


def main() -> None:
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    with np.load(request["data"]) as data:
        weights = {name[2:]: data[name] for name in data.files if name.startswith("w/")}
        images = torch.from_numpy(np.ascontiguousarray(data["images"].transpose(0, 3, 1, 2)))
        labels = torch.from_numpy(data["labels"].astype(np.int64))
    network = Network(weights, request["network"]).eval()
    if request["task"] == "logits":
        with torch.no_grad():
            found = {"logits": network(images).numpy()}
    else:
        found = {"steps": steps, "apgd": apgd, "autoattack": autoattack}[request["task"]](
            network, images, labels, request
        )
    turned = {name: np.moveaxis(x, -3, -1) if x.ndim >= 4 else x for name, x in found.items()}
    np.savez(request["out"], **turned)


if __name__ == "__main__":
    main()
