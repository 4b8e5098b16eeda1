"""How different the voices of enlarge.py are: distances between espeak-ng variants, and the nearest variant of another split for each voice of dev and test.

    python docs/experiments/schedules/enlarged/voices.py         # 10 s; needs what data/sample/make.py needs

Each variant says three sentences at one pitch and rate. The distance of two variants is the root mean square difference of their log-mel spectra (40 bands, 10 ms steps,
natural logarithm), aligned linearly, as a mean over the sentences. Voices of the experiment differ in pitch and rate beside it.

The 28 variants of dev and test are the first of a farthest-point sampling, from Alex on, among those at a distance of 1.65 or more from every variant of train and base.
They were divided by hand. Left out: robots, whispers, effects, copies (steph2, Gene2, edward2, iven2-4), a name with a space, and Michael, which is near to a voice of base.
"""

import sys

import enlarge
import numpy as np

sample = enlarge.sample
NUM_BANDS, NUM_FRAMES, WINDOW, STEP = 40, 100, 512, 160


def filters() -> np.ndarray:
    """Triangular mel filters from 60 to 7,800 Hz, [bands, bins]."""
    mel = np.linspace(*(2595 * np.log10(1 + hz / 700) for hz in (60, 7800)), NUM_BANDS + 2)
    edges = (700 * (10 ** (mel / 2595) - 1))[:, None]
    bins = np.linspace(0, sample.RATE_HZ / 2, WINDOW // 2 + 1)[None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def spectra(variant: str) -> np.ndarray:
    """Log-mel spectra of the sentences, [sentences, frames, bands]."""
    of_sentences = []
    for number, dialect in enumerate(("MSA", "EGY", "NOR")):
        text = sample.sentence(dialect, number, "base")["spoken"]
        samples = sample.say(text, (variant, 50, 160), 0, 100, 1.0, 0.0)
        frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::STEP] * np.hanning(WINDOW)
        energies = np.log(np.abs(np.fft.rfft(frames)) ** 2 @ filters().T + 1e-6)
        of_sentences.append(energies[np.linspace(0, len(energies) - 1, NUM_FRAMES).round().astype(int)])
    return np.array(of_sentences)


def main() -> None:
    if len(sys.argv) != 1:
        sys.exit(__doc__)
    found = {(split, variant): spectra(variant) for split, voices in enlarge.VOICES.items() for variant, _, _ in voices.values()}

    def distance(a, b) -> float:
        return float(np.sqrt(((found[a] - found[b]) ** 2).mean(axis=(1, 2))).mean())

    pairs = [distance(a, b) for i, a in enumerate(found) for b in list(found)[:i]]
    print(f"median distance between two of {len(found)} variants: {np.median(pairs):.2f}\n")
    for split in ("dev", "test"):
        own = [key for key in found if key[0] == split]
        others = {key: min((distance(key, other), other) for other in found if other[0] != split) for key in own}
        inside = min(distance(a, b) for i, a in enumerate(own) for b in own[:i])
        for (_, variant), (far, (of, nearest)) in others.items():
            print(f"{split:4} {variant:12} nearest of another split: {nearest} ({of}), {far:.2f}")
        print(f"{split}: least distance to another split {min(far for far, _ in others.values()):.2f}, between two of its own voices {inside:.2f}\n")


if __name__ == "__main__":
    main()
