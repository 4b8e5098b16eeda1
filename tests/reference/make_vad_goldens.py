"""Writes crates/audio/tests/fixtures/vad.json: results of Silero's own program for a recording.

Run at the repository's root with torch and silero-vad 6.2.3 (pip; its silero_vad_16k.safetensors is the file in crates/audio/assets):

    python tests/reference/make_vad_goldens.py

The package's TorchScript model has newer weights than its safetensors file, so the script first loads the weights of that file.
The recording is speech of the fixtures between silences and noise, put together in the same way by the test that reads the file.
Probabilities come from that TorchScript model, segments from its get_speech_timestamps_from_probs.
"""

import json
import wave

import numpy as np
import torch
from safetensors.torch import load_file
from silero_vad import load_silero_vad
from silero_vad.utils_vad import get_speech_timestamps_from_probs

RATE = 16000
WINDOW = 512


def clip(name):
    with wave.open(f"tests/fixtures/audio/{name}.wav") as file:
        assert file.getframerate() == RATE and file.getnchannels() == 1
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return samples.astype(np.float32) / 32768


def noise(num_samples):
    """Uniform noise of a linear congruential generator, at -40 dBFS."""
    state, samples = 1, []
    for _ in range(num_samples):
        state = (state * 1664525 + 1013904223) % 2**32
        samples.append((state / 2**31 - 1) * 0.01)
    return np.array(samples, dtype=np.float32)


def silence(num_samples):
    return np.zeros(num_samples, dtype=np.float32)


# Names in the TorchScript model, in the order of the names in the safetensors file.
NAMES = {
    "stft_conv.weight": "stft.forward_basis_buffer",
    "conv1": "encoder.0.reparam_conv",
    "conv2": "encoder.1.reparam_conv",
    "conv3": "encoder.2.reparam_conv",
    "conv4": "encoder.3.reparam_conv",
    "lstm_cell": "decoder.rnn",
    "final_conv": "decoder.decoder.2",
}


def give_weights(model):
    """Copies the weights of crates/audio/assets into the model."""
    state = model.state_dict()
    for name, values in load_file("crates/audio/assets/silero_vad_16k.safetensors").items():
        module, _, part = name.partition(".")
        target = NAMES[name] if name in NAMES else f"{NAMES[module]}.{part}"
        state[f"_model.{target}"].copy_(values)


def main():
    torch.set_num_threads(1)
    parts = [silence(8000), clip("a1"), silence(24000), clip("a2"), noise(16000), clip("a3"), silence(5000)]
    samples = torch.from_numpy(np.concatenate(parts))
    model = load_silero_vad(onnx=False)
    give_weights(model)
    model.reset_states()
    probabilities = []
    with torch.no_grad():
        for start in range(0, len(samples), WINDOW):
            chunk = samples[start : start + WINDOW]
            chunk = torch.nn.functional.pad(chunk, (0, WINDOW - len(chunk)))
            probabilities.append(model(chunk, RATE).item())

    settings = [
        {},
        {"max_speech_duration_s": 3.0},
        {"max_speech_duration_s": 1.0, "min_silence_duration_ms": 300},
        {"threshold": 0.8, "speech_pad_ms": 200, "min_silence_duration_ms": 50},
        {"threshold": 0.2, "min_speech_duration_ms": 2000, "speech_pad_ms": 0},
    ]
    segments = []
    for chosen in settings:
        found = get_speech_timestamps_from_probs(
            probabilities, sampling_rate=RATE, audio_length_samples=len(samples), **chosen
        )
        segments.append({"settings": chosen, "segments": [[part["start"], part["end"]] for part in found]})
    with open("crates/audio/tests/fixtures/vad.json", "w") as out:
        json.dump({"probabilities": [round(p, 7) for p in probabilities], "segments": segments}, out, indent=1)
        out.write("\n")


main()
