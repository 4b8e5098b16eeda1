"""The best constant answer to an instruction suite, counted without maqam: `tests/fixtures/instructions/floor.json`.

    python tests/reference/instruction_floor.py eval/instructions/sample-dev.jsonl > tests/fixtures/instructions/floor.json

Needs nothing but Python 3.10. The checks are implemented again from their descriptions in `src/eval/instructions/check.rs`. Punctuation and
letters are Unicode's categories as in Python. The candidates are all words, phrases and texts in checks, an object with each
list of keys, and all references.
"""

import json
import re
import sys
import unicodedata

MARKS = set(range(0x610, 0x61B)) | set(range(0x64B, 0x653)) | set(range(0x656, 0x660)) | {0x670} | set(range(0x6D6, 0x6DD)) | set(range(0x6DF, 0x6E5)) | {0x6E7, 0x6E8} | set(range(0x6EA, 0x6EE))
INVISIBLE = {0xAD, 0x61C, 0xFEFF} | set(range(0x200B, 0x2010)) | set(range(0x202A, 0x202F)) | set(range(0x2060, 0x206A))
LETTERS = {"أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ة": "ه"}
END = set(" \n\t\"'»”’)].۔!…؟?")


def fold(text: str) -> str:
    kept = "".join(c for c in text if ord(c) not in MARKS and ord(c) not in INVISIBLE and c != "ـ").lower()
    return "".join(LETTERS.get(c, str(unicodedata.digit(c)) if c.isdigit() and c not in "0123456789" and ord(c) in range(0x660, 0x6FA) else c) for c in kept)


def is_letter(c: str) -> bool:
    return c.isalpha() and c != "ـ"


def inside(before: str, c: str, after: str) -> bool:
    if c in "'’-‐‑":
        return bool(before and after) and all(is_letter(n) or ord(n) in MARKS for n in (before, after))
    return c in ".,٫٬" and bool(before and after) and before.isnumeric() and after.isnumeric()


def neighbours(text: str):
    return ((text[i - 1] if i else "", c, text[i + 1] if i + 1 < len(text) else "") for i, c in enumerate(text))


def words(text: str) -> list[str]:
    kept = "".join(c if c.isalnum() or ord(c) in MARKS or ord(c) in INVISIBLE or inside(b, c, a) or c == "ـ" else " " for b, c, a in neighbours(text))
    return [word for word in kept.split() if any(is_letter(c) or c.isnumeric() for c in word)]


def folded_words(text: str) -> list[str]:
    return [fold(word) for word in words(text)]


def has_punctuation(text: str) -> bool:
    return any(unicodedata.category(c).startswith("P") and not inside(b, c, a) for b, c, a in neighbours(text))


def is_form(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    if len(wanted) < 3 or not "\u0620" <= wanted[0] <= "\u064a":
        return False
    forms = [found[len(lead) :] for lead in ("", "و", "ف", "ب", "ك", "وب", "وك", "فب") if found.startswith(lead) and found[len(lead) :].startswith("ال")]
    forms += ["ال" + found[len(lead) :] for lead in ("لل", "ولل", "فلل") if found.startswith(lead)]
    return any(form == wanted or form == "ال" + wanted for form in forms) or found == "و" + wanted


def contains(text: str, phrase: str) -> bool:
    have, want = folded_words(text), folded_words(phrase)
    return bool(want) and any(is_form(have[i], want[0]) and have[i + 1 : i + len(want)] == want[1:] for i in range(len(have) - len(want) + 1))


def collapse(text: str) -> str:
    return " ".join(text.split())


def starts(text: str, phrase: str) -> bool:
    text, phrase = collapse(fold(text).lstrip(" \n\t\"'«“‘([")), collapse(fold(phrase))
    return text.startswith(phrase) and not (phrase[-1:].isalnum() and text[len(phrase) :][:1].isalnum())


def ends(text: str, phrase: str) -> bool:
    text, phrase = (collapse(fold(part).rstrip("".join(END))) for part in (text, phrase))
    return bool(phrase) and text.endswith(phrase) and not (phrase[:1].isalnum() and text[: len(text) - len(phrase)][-1:].isalnum())


def same_label(answer: str, known: str) -> bool:
    return collapse(fold(answer.rstrip(" \n\t.۔"))) == collapse(fold(known.rstrip(" \n\t.۔")))


def distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def errors(text: str, answer: str) -> float:
    reference = " ".join(folded_words(text))
    return distance(reference, " ".join(folded_words(answer))) / len(reference)


def in_language(answer: str, language: str) -> bool:
    letters = [c for c in answer if is_letter(c) and ord(c) not in MARKS]
    arabic = [c for c in letters if "ARABIC" in unicodedata.name(c, "")]
    latin = [c for c in letters if "LATIN" in unicodedata.name(c, "")]
    script = arabic if language == "ar" else latin
    # None of the answers that are tried is Persian, Urdu, French or the like: the script decides.
    return bool(script) and len(script) >= 0.75 * len(letters)


def one_object(answer: str) -> list[str] | None:
    pairs: list[str] = []
    try:
        found = json.loads(answer, object_pairs_hook=lambda found: pairs.extend(key for key, _ in found) or dict(found))
    except ValueError:
        return None
    return sorted(pairs) if isinstance(found, dict) else None


def holds(check: dict, answer: str) -> bool:
    if not answer.strip():
        return False
    answer = answer.strip()
    match check["check"]:
        case "one-of":
            return any(same_label(answer, known) for known in check["answers"])
        case "none-of":
            return not any(same_label(answer, known) for known in check["answers"])
        case "json-keys":
            return one_object(answer) == sorted(check["keys"])
        case "in-language":
            return in_language(answer, check["language"])
        case "at-most-words":
            return len(words(answer)) <= check["words"]
        case "at-least-words":
            return len(words(answer)) >= check["words"]
        case "contains":
            return contains(answer, check["word"])
        case "avoids":
            return not contains(answer, check["word"])
        case "starts-with":
            return starts(answer, check["phrase"])
        case "ends-with":
            return ends(answer, check["phrase"])
        case "no-diacritics":
            return not any(ord(c) in MARKS for c in answer)
        case "no-punctuation":
            return not has_punctuation(answer)
        case "transcribes":
            return errors(check["text"], answer) <= check["max_cer"]
        case "differs":
            text, said = (" " + " ".join(folded_words(part)) + " " for part in (check["text"], answer))
            return errors(check["text"], answer) >= check["min_cer"] and text not in said
        case other:
            raise ValueError(other)


def candidates(suite: list[dict]) -> list[str]:
    found: dict[str, None] = {}
    for row in suite:
        for check in row["checks"]:
            texts = check.get("answers", []) if check["check"] == "one-of" else []
            texts = texts + [check[name] for name, of in (("word", "contains"), ("phrase", "starts-with"), ("phrase", "ends-with"), ("text", "transcribes")) if check["check"] == of]
            if check["check"] == "json-keys":
                # Compact, as maqam writes it.
                texts = texts + [json.dumps(dict.fromkeys(check["keys"]), ensure_ascii=False, separators=(",", ":"))]
            found.update(dict.fromkeys(texts))
        if row.get("reference"):
            found[row["reference"]] = None
    return [text for text in found if text.strip()]


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        suite = [json.loads(line) for line in file]
    counts = []
    for answer in candidates(suite):
        known: dict[str, bool] = {}
        followed = 0
        for row in suite:
            held = True
            for check in row["checks"]:
                key = json.dumps(check, ensure_ascii=False, sort_keys=True)
                if key not in known:
                    known[key] = holds(check, answer)
                held = held and known[key]
            followed += held
        counts.append((answer, followed))
    most = max(followed for _, followed in counts)
    best = next(answer for answer, followed in counts if followed == most)
    kept = sorted(counts, key=lambda count: -count[1])[:40]
    print(json.dumps({"rows": len(suite), "tried": len(counts), "answer": best, "followed": most, "counts": kept}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
