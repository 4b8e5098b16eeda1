"""Labels of axis ticks, computed with exact fractions: `tests/fixtures/axis_ticks.json`.

    python tests/reference/axis_ticks.py > tests/fixtures/axis_ticks.json      # needs nothing but Python 3.10

A step is the smallest of 1, 2, 2.5 and 5 times a power of ten that divides the range into at most `wanted` parts; a count takes
whole steps alone. Every label is the exact number of its tick, with the decimals that the step needs. Below a hundredth, and from
10^12 on, numbers are powers of ten; from 10^4 on, and for counts, they are short (k, M, G).
"""

import json
from fractions import Fraction

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def step_of(low: Fraction, high: Fraction, wanted: int, is_count: bool) -> Fraction:
    power = Fraction(1, 10**20)
    while True:
        for leading in (Fraction(1), Fraction(2), Fraction(5, 2), Fraction(5)):
            step = leading * power
            if step * wanted >= high - low and not (is_count and step.denominator > 1):
                return step
        power *= 10


def decimals_of(number: Fraction) -> int:
    decimals = 0
    while (number * 10**decimals).denominator > 1:
        decimals += 1
    return decimals


def decimal(number: Fraction, decimals: int) -> str:
    digits = str(abs(number * 10**decimals).numerator).rjust(decimals + 1, "0")
    assert (number * 10**decimals).denominator == 1
    text = f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
    return ("−" if number < 0 else "") + text


def scientific(number: Fraction) -> str:
    power = 0
    while abs(number) >= Fraction(10) ** (power + 1):
        power += 1
    while abs(number) < Fraction(10) ** power:
        power -= 1
    leading = number / Fraction(10) ** power
    text = decimal(leading, decimals_of(leading))
    raised = "10" + str(power).translate(RAISED)
    return raised if text == "1" else "−" + raised if text == "−1" else f"{text}×{raised}"


def short(number: Fraction) -> str:
    for power, suffix in ((9, "G"), (6, "M"), (4, "k")):
        if abs(number) >= 10**power:
            over = number / 10 ** (3 if suffix == "k" else power)
            return decimal(over, decimals_of(over)) + suffix
    return decimal(number, decimals_of(number))


def labels(low: str, high: str, wanted: int, unit: str) -> list[str]:
    least, most = Fraction(low), Fraction(high)
    step = step_of(least, most, wanted, unit == "count")
    first = -(-least // step)
    ticks = [first * step + i * step for i in range(100) if first * step + i * step <= most]
    factor, sign = (100, " %") if unit == "percent" else (1, "")
    largest = max(abs(least), abs(most)) * factor
    found = []
    for tick in ticks:
        number = tick * factor
        if number == 0:
            text = "0"
        elif largest < Fraction(1, 100) or abs(number) >= 10**12:
            text = scientific(number)
        elif unit == "count" or largest >= 10**4:
            text = short(number)
        else:
            text = decimal(number, decimals_of(step * factor))
        found.append(text + sign)
    return found


RANGES = [
    ("0", "10"), ("0", "1"), ("0", "0.1"), ("0", "0.05"), ("0", "0.025"), ("0", "0.3"), ("0", "2.2"), ("0", "7"), ("0", "12"),
    ("0", "25"), ("0", "100"), ("0", "250"), ("0", "999"), ("0", "1000"), ("0", "9000"), ("0", "12000"), ("0", "100000"), ("0", "1000000"),
    ("1000000", "1100000"), ("1000000", "1000100"), ("0", "2500000000"), ("0", "5000000000000"), ("0", "0.001"), ("0", "0.002"), ("0", "0.00025"),
    ("-1", "1"), ("-0.05", "0.05"), ("-10", "10"), ("-0.003", "0.003"), ("0.2", "0.3"), ("0.45", "0.55"), ("0.995", "1"), ("3", "4"), ("97", "103"),
    ("-25000", "25000"), ("12345", "12355"),
]


def main() -> None:
    cases = []
    for low, high in RANGES:
        for wanted in (2, 4, 6, 8):
            for unit in ("plain", "percent", "count"):
                if unit == "count" and Fraction(high) - Fraction(low) < 1:
                    continue
                cases.append({"low": float(low), "high": float(high), "wanted": wanted, "unit": unit, "labels": labels(low, high, wanted, unit)})
    print("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]")


if __name__ == "__main__":
    main()
