r"""The number that a worked solution ends in, and its value.

`final_line` finds the line that gives the answer, `#### 72`; rows are read by it, and generated texts, too.
`final_number` is what a text answers: that line, else the last `\boxed{...}`, else what it calls the answer, else its
last number. `value` evaluates it: plain numbers here, LaTeX by math-verify.
"""

import logging
import re
import unicodedata
from fractions import Fraction

# A longer text is no number. Python refuses to convert thousands of digits.
MAX_NUMBER_CHARACTERS = 100
_CURRENCY = r"[$¢£¤¥֏฿₠-₿]"
_POWER = r"\^ ?(?:\{[-+]?\d{1,3}\}|[-+]?\d{1,3}(?!\d))"
_INTEGER = (
    r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)"  # 1,234
    r"|[1-9]\d{0,2}(?: \d{3})+(?!\d)"  # 1 234
    r"|[1-9]\d?(?:,\d{2})+,\d{3}(?!\d)"  # 12,34,567, as in India
    r"|\d+)"
)
_DECIMAL_COMMA = (
    r"(?:[1-9]\d{0,2}(?:\.\d{3})+,\d+|[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\d.])"  # 1.234,50, 1.234.567
    r"|[1-9]\d{0,2}(?: \d{3})+,\d+|(?<!\d,)(?:\d+,\d{1,2}|0,\d+)(?!,?\d))"  # 1 234,50, 12,5
)
_UNSIGNED = (
    rf"(?:(?:\d+ )?{_INTEGER} ?/ ?0*[1-9]\d*(?![\d/]|\.\d)"  # 3/4, 2 1/2
    r"|(?:\d+ ?)?\\(?:[cdt]?frac ?(?:\{[^{}]*\}|\d) ?|sqrt ?)(?:\{[^{}]*\}|\d)"  # 2\frac{1}{2}
    rf"|{_DECIMAL_COMMA}|\d+ ?{_POWER}"  # 10^8
    # 1,234.50, .5, 1.5e3, 3.0 x 10^8
    rf"|(?:{_INTEGER}(?:\.\d+)?|(?<!\w)\.\d+)(?:[eE][-+]?\d{{1,3}}(?!\w)| ?[xX\u00d7*·] ?10 ?{_POWER})?)"
)
# A minus after a digit, a word or a bracket is a subtraction or a hyphen.
_NUMBER = rf"(?:(?<![\w.)])-)?(?:{_CURRENCY} ?)?(?:(?<={_CURRENCY})-)?{_UNSIGNED}(?: ?%)?"
# Digits that are no number, or a part of one: 3:30, 2024-01-31, 1/2/2024, version 1.2.3, H2O, m^2.
_OTHER_DIGITS = r"\d+(?::\d+)+|\d{4}-\d\d?-\d\d?|\d+(?:/\d+){2,}|\d+(?:\.\d+){2,}(?!,)|(?:[A-Za-z_]|\^\{?-?)\d[\d.]*"
_SEPARATED = re.compile(rf"(?P<comma>{_DECIMAL_COMMA})|{_INTEGER}")
_TOKENS = re.compile(rf"(?P<grouped>{_DECIMAL_COMMA})|{_OTHER_DIGITS}|(?P<number>{_NUMBER})")
_HEADING = re.compile(r"(?<!#)####([^#\n]*)$", re.MULTILINE)
_WITH_UNIT = re.compile(rf"(?<!#)####[ *]*({_NUMBER})(?=[ *]*(?:[a-z°]|[^\W\d]\S*$))[^\n]*", re.MULTILINE)
_STATED = re.compile(r"(?<!if the )\banswer(?: is|:)[\s:]*", re.IGNORECASE)
# After a stated answer: no other number before the sentence or a bracket ends it.
_STATED_END = re.compile(r"[^\d.!?(=+*/\n]*(?:[.!?(\n]|$)")
# Braces within braces, four deep.
_BOXED = re.compile(r"\\f?boxed ?\{((?:[^{}]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})+)\}")
_TEXT = re.compile(r"\\(?:text(?:bf|rm|it)?|math(?:rm|bf)|mbox) ?\{([^{}]*)\}")
# Arithmetic of numbers: nothing in it takes long to evaluate.
_ARITHMETIC = re.compile(
    rf"(?:[\d\s.,+\-*/^(){{}}\u00d7·%$]|\\(?:f?boxed|[cdt]?frac|sqrt|left|right|div|circ)(?![a-z])|{_TEXT.pattern})+"
)


def final_line(text: str) -> re.Match[str] | None:
    """The line that gives the answer of a worked solution, with the number as its group 1.

    It is the last line in which a number and nothing else follows `####`, else the last line of the text if a number
    and its unit do. Other lines with `####` are headings, as in `#### Step 1: halve 8`.
    """
    for line in reversed(list(_HEADING.finditer(text))):
        if value(_bare(line[1])) is not None:
            return line
    last_line = text.rstrip().rpartition("\n")[2]
    return _WITH_UNIT.search(text, len(text.rstrip()) - len(last_line))


def final_number(text: str) -> str | None:
    r"""The number that a worked solution ends in, with plain signs and separators; None if there is none.

    It is the one of `final_line`, else what stands in the last `\boxed{}`, which need not be a number, else the one
    with its unit after `####`, else that of "the answer is 72", else the last number of the text.
    """
    line = final_line(text)
    if line:
        return _bare(plain(line[1]))
    text = plain(text)
    boxes = [box for box in _BOXED.findall(text) if box.strip()]
    if boxes:
        return _boxed(boxes[-1])
    candidates = [line[1] for line in _WITH_UNIT.finditer(text)] or _stated(text) or _numbers(text)
    return candidates[-1].strip() if candidates else None


def value(text: str) -> Fraction | None:
    """The value of a text that is one number, without its currency or percent sign; None if it is not a number.

    Spelling does not matter: 1,200 is 1200.0.
    """
    text = re.sub(rf"{_CURRENCY}|\\[()\[\]]", "", plain(text)).strip().removesuffix("%").rstrip()
    if len(text) > MAX_NUMBER_CHARACTERS:
        return None
    if not re.fullmatch(_NUMBER, text):
        return _evaluate(text) if "\\" in text else None
    text = _SEPARATED.sub(_joined, text)
    text = re.sub(r"(?: ?[xX\u00d7*·] ?|^(-?))10 ?\^ ?\{?([-+]?\d+)\}?$", _exponent, text)
    if "\\" in text or "^" in text:
        return _evaluate(text)
    # In 2 1/2 the sign belongs to both parts.
    whole, _, part = re.sub(" ?/ ?", "/", text).rpartition(" ")
    return Fraction(whole or "0") + Fraction(f"-{part}" if whole.startswith("-") else part)


def plain(text: str) -> str:
    r"""The text with one spelling of minus signs, thin spaces, powers, and LaTeX's `{,}`, `\,`, `\times`."""
    text = re.sub(r"[\u00a0\u2007\u2009\u202f]|\\[,;: ]", " ", text)
    text = re.sub("[⁻⁰¹²³⁴-⁹]+", lambda power: "^" + unicodedata.normalize("NFKC", power[0]), text)
    text = re.sub(r"(?<=\d)['\u2019](?=\d{3}(?!\d))", ",", text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda part: unicodedata.normalize("NFKC", part[0]).replace("\u2044", "/"), text)
    for written, usual in (("\u2212", "-"), ("{,}", ","), (r"\!", ""), (r"\$", "$"), (r"\%", "%"), ("⋅", "·")):
        text = text.replace(written, usual)
    return re.sub(r"\\times(?![a-z])", "\u00d7", re.sub(r"\\cdot(?![a-z])", "·", text))


def _joined(digits: re.Match[str]) -> str:
    """A number without its separators between thousands, and with a decimal point."""
    if digits["comma"]:
        return re.sub("[. ]", "", digits[0]).replace(",", ".")
    return re.sub("[, ]", "", digits[0])


def _exponent(power: re.Match[str]) -> str:
    return f"e{power[2]}" if power[1] is None else f"{power[1]}1e{power[2]}"


def _bare(text: str) -> str:
    """The text of a line without emphasis, and without the full stop of a sentence."""
    return re.sub(r"^[\s*]+|[\s*.]+$", "", text)


def _numbers(text: str) -> list[str]:
    return [
        token["grouped"] or token["number"] for token in _TOKENS.finditer(text) if token["grouped"] or token["number"]
    ]


def _stated(text: str) -> list[str]:
    text = text.replace("**", "")
    tokens = [_TOKENS.match(text, words.end()) for words in _STATED.finditer(text)]
    return [
        token["grouped"] or token["number"]
        for token in tokens
        if token and (token["grouped"] or token["number"]) and _STATED_END.match(text, token.end())
    ]


def _boxed(content: str) -> str:
    """The one number in the content of a box, after its last equals sign; the content if there is not one number."""
    last = re.split(r"=|≈|\\approx", content)[-1]
    # An equals sign within braces does not end a side.
    content = (last if last.count("{") == last.count("}") else content).strip()
    if value(content) is not None:
        return content
    text = _TEXT.sub(r" \1 ", content)
    numbers = _numbers(text)
    return numbers[0].strip() if len(numbers) == 1 and not re.search(r"\\|(?<![A-Za-z])\^", text) else content


def _evaluate(latex: str) -> Fraction | None:
    """The value of arithmetic in LaTeX; None if it is something else, or not rational."""
    powers = re.findall(r"\^(?!\s*\{?\s*\\circ)", latex)
    if len(powers) > 1 or re.search(r"\^\s*\{?[-+]?\d{4}", latex) or not _ARITHMETIC.fullmatch(latex):
        return None
    latex = _SEPARATED.sub(_joined, latex).replace("\u00d7", r"\times ").replace("·", r"\cdot ")
    # Loads sympy, which takes half a second, and few solutions have LaTeX.
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    # Its timeout needs signals, which only the main thread can receive.
    parsed = parse(f"${latex}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)
    number = parsed[0].doit() if parsed else None
    if number is not None and number.is_Float:
        return Fraction(str(number)) if number.is_finite else None
    return Fraction(int(number.p), int(number.q)) if number is not None and number.is_Rational else None
