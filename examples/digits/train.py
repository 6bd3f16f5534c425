"""Train the digits example and convert it to a Core ML package.

The script trains a small convolutional network on scikit-learn's handwritten
digits (1,797 images of 8x8 pixels) with PyTorch, converts it with coremltools
to an ML Program for iOS 16, and writes beside it the images that were never
used in training, their labels, and the probabilities that the PyTorch model
gives for them.

It needs Python 3.11 and these packages (the same as in requirements.txt):

    pip install torch==2.13.0 coremltools==9.0 scikit-learn==1.9.1 \
        numpy==2.4.6 protobuf==7.36.2

Training runs on one CPU thread with fixed seeds, and the package holds neither
dates nor random identifiers: a second run on the same machine writes the same
bytes.
"""

import argparse
import json
import shutil
import uuid
from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

SEED = 0
HELD_OUT = 450
EPOCHS = 30
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
CONVERSION_DATE = "com.github.apple.coremltools.conversion_date"


class DigitsNet(nn.Module):
    """Three 3x3 convolutions, one inside a residual block, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.widen = nn.Sequential(
            nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(2)
        self.residual = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        )
        self.hidden = nn.Linear(64 * 4 * 4, 128)
        self.dropout = nn.Dropout(0.3)
        self.classify = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(self.widen(self.stem(image)))
        x = torch.relu(x + self.residual(x))
        x = torch.relu(self.hidden(torch.flatten(x, 1)))
        return self.classify(self.dropout(x))


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training images, held-out images, training labels, held-out labels."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    return train_test_split(
        images, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED
    )


def train(images: np.ndarray, labels: np.ndarray) -> DigitsNet:
    """Train for a fixed number of epochs and return the network in eval mode."""
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    net = DigitsNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for batch in torch.randperm(len(x)).split(BATCH_SIZE):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        scheduler.step()
        print(f"epoch {epoch:2d}  training loss {total / len(x):.4f}")
    return net.eval()


def convert(model: nn.Module) -> ct.models.MLModel:
    """Convert the model to an ML Program and describe its input and output."""
    converted = ct.convert(
        torch.jit.trace(model, torch.zeros(1, 1, 8, 8)),
        inputs=[ct.TensorType(name="image", shape=(1, 1, 8, 8), dtype=np.float32)],
        outputs=[ct.TensorType(name="probabilities", dtype=np.float32)],
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT16,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    converted.author = "cmlc authors"
    converted.license = "BSD-3-Clause"
    converted.version = "1.0"
    converted.short_description = "Recognises a handwritten digit in an 8x8 image."
    converted.input_description["image"] = (
        "Grey image of 8x8 pixels, 0 for paper and 1 for ink."
    )
    converted.output_description["probabilities"] = (
        "Probability of each of the digits 0 to 9."
    )
    return converted


def save_package(converted: ct.models.MLModel, path: Path) -> None:
    """Save the package, then take out of it all that changes from run to run."""
    shutil.rmtree(path, ignore_errors=True)
    converted.save(str(path))

    spec = converted.get_spec()
    spec.description.metadata.userDefined.pop(CONVERSION_DATE, None)
    model_file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model_file.write_bytes(spec.SerializeToString(deterministic=True))
    model_file.chmod(0o644)

    manifest_file = path / "Manifest.json"
    manifest = json.loads(manifest_file.read_text())
    items = manifest["itemInfoEntries"]
    fixed = {
        key: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])).upper()
        for key, item in items.items()
    }
    manifest["itemInfoEntries"] = {fixed[key]: item for key, item in items.items()}
    manifest["rootModelIdentifier"] = fixed[manifest["rootModelIdentifier"]]
    manifest_file.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train the digits example and convert it to Core ML."
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="where to write digits.mlpackage and samples/ (default: beside this script)",
    )
    output_dir: Path = parser.parse_args().output_dir

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)

    train_images, test_images, train_labels, test_labels = load_split()
    net = train(train_images, train_labels)
    model = nn.Sequential(net, nn.Softmax(dim=1)).eval()
    with torch.inference_mode():
        probabilities = model(torch.from_numpy(test_images)).numpy()

    samples = output_dir / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    np.save(samples / "images.npy", test_images)
    np.save(samples / "labels.npy", test_labels)
    np.save(samples / "expected.npy", probabilities)
    save_package(convert(model), output_dir / "digits.mlpackage")

    correct = int((probabilities.argmax(axis=1) == test_labels).sum())
    print(f"parameters: {sum(p.numel() for p in net.parameters()):,}")
    print(f"held-out accuracy: {correct}/{HELD_OUT} = {100 * correct / HELD_OUT:.2f} %")


if __name__ == "__main__":
    main()
