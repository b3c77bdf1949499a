"""Lucent's side of `visualize.py`: reads a request, renders channels of SqueezeNet, writes images and seconds.

Runs in the peers' environment (`requirements.txt`) and imports nothing of this project. Two gaps of the releases named
there are filled first: torchvision's operators `nms` and `qnms`, which its wheel does not bring for this build of
PyTorch, and two names of kornia that moved.
"""

import json
import sys
import time

import kornia
import numpy as np
import torch
from kornia.geometry.transform import get_rotation_matrix2d, warp_affine
from torch.library import Library

library = Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
kornia.get_rotation_matrix2d, kornia.warp_affine = get_rotation_matrix2d, warp_affine

from lucent.optvis import objectives, param, render  # noqa: E402
from torchvision.models import squeezenet1_0  # noqa: E402

MODULES = {"fire2": 3, "fire3": 4, "fire4": 5, "fire5": 7, "fire6": 8, "fire7": 9, "fire8": 10, "fire9": 12}


def main() -> None:
    request = json.loads(sys.argv[1])
    torch.set_num_threads(request["threads"])
    network = squeezenet1_0()
    with np.load(request["weights"]) as state:
        network.load_state_dict({name: torch.from_numpy(state[name]) for name in state.files})
    network.eval()
    images, seconds = [], []
    for layer, channel in request["channels"]:
        torch.manual_seed(request["seed"])
        np.random.seed(request["seed"])  # noqa: NPY002 (what Lucent draws its transforms from)
        began = time.perf_counter()
        found = render.render_vis(
            network,
            objectives.channel(f"features_{MODULES[layer]}", channel),
            param_f=lambda: param.image(request["size"]),
            thresholds=(request["steps"],),
            preprocess=False,
            progress=False,
            show_image=False,
        )
        seconds.append(time.perf_counter() - began)
        images.append(found[-1][0])
    np.savez(request["out"], images=np.stack(images).astype(np.float32), seconds=np.array(seconds))


if __name__ == "__main__":
    main()
