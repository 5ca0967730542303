"""What can be wrong with a text of a question or a trace: text in, the evidence of the fault or None out."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

# ------------------------------------------------------------------ not what was asked for

_ERROR_PAGE = re.compile(
    r"""<(?:!doctype|html|head)\b .{0,500}? <(?:title|h1)>[^<]{0,80}
        (?:\b[45]\d\d\b|error|bad\ gateway|time-?out|denied|forbidden|unavailable|not\ found|just\ a\ moment)
    |\{\s*"error"\s*:""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_ERROR = re.compile(
    r"""(?:(?:\w+\.)*(?:API|RateLimit|Timeout|Connection|HTTP|Service|ResourceExhausted|InternalServer
        |BadRequest)\w*(?:Error|Exception)(?:[:(]|\Z)
    |(?:(?:http|api|server)\s)?error(?:\s code)?\s?[:-]?\s?[45]\d\d\b
    |(?:http\s)?[45]\d\d:?\s(?:too\ many\ requests|resource\ (?:has|exhausted)|internal\ server|bad\ gateway
        |bad\ request|forbidden|service\ unavailable|(?:gateway|request)\ time-?out|unauthori[sz]ed)
    |(?:error:\s)?(?:rate\ limit\ (?:reached|exceeded)
        |you(?:'ve|\ have)?\ (?:exceeded|reached)\ your\ [\w\ ]{0,20}(?:quota|limit)
        |too\ many\ requests|(?:the\ )?request\ timed\ out|(?:read|connection)\ (?:timed\ out|error|reset)
        |internal\ server\ error|bad\ gateway|service\ (?:temporarily\ )?unavailable|upstream\ connect\ error
        |the\ (?:model|server|engine)\ is\ (?:currently\ )?(?:overloaded|unavailable)
        |(?:the|your)\ (?:request|response|prompt|output|content)\ was\ (?:filtered|blocked|rejected)
        |(?:blocked|flagged)\ by\ (?:the\ |our\ )?(?:content|safety)|resource_exhausted
        |finish_?reason\W{0,3}(?:safety|recitation|content_filter))
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_REFUSAL = re.compile(
    r"""(?:(?:i'm|i\ am)\ (?:very\ |so\ )?sorry,?\s|sorry,?\s|i\ apologi[sz]e,?\s|unfortunately,?\s)?
    (?:but\ )?(?:as\ an?\ (?:ai|artificial|large)\b[^.,]{0,60},?\s)?(?:but\ )?
    i\ ?(?:can(?:not|'t|\ not)|(?:am|'m)\ (?:not\ able|unable)\ to|won't|will\ not|do\ not|don't)\s
    (?:be\ able\ to\ )?(?:assist|help|answer|provide|fulfil|comply|respond|engage|generate
        |(?:view|see|open)\ (?:the|any|this|an)|have\ (?:access|the\ ability|personal))\b""",
    re.IGNORECASE | re.VERBOSE,
)
MAX_ERROR_CHARACTERS = 4000
MAX_REFUSAL_WORDS = 80


def error_message(text: str) -> str | None:
    """The text as a whole is a service's error message, an error page, or a refusal.

    A text that begins like one passes where something else follows: after a message a question mark, after a
    refusal a box, a formula or more than 80 words; and every text of more than 4,000 characters.
    """
    if len(text) > MAX_ERROR_CHARACTERS:
        return None
    plain = text.strip().replace("\u2019", "'")
    if _ERROR_PAGE.match(plain) or ("?" not in plain and _ERROR.match(plain)):
        return f"error message {plain[:80]!r}"
    short = len(plain.split()) <= MAX_REFUSAL_WORDS
    if short and _REFUSAL.match(plain) and not re.search(r"\\boxed|\$|\d\s*=", plain):
        return f"refusal {plain[:80]!r}"
    return None


# ------------------------------------------------------------------ damaged

_CONTROL_TOKEN = re.compile(
    r"<\|(?:[a-z]+(?:_[a-z]+)+|endoftext|eos|bos|pad|start|end|user|assistant|system|return|channel)\|>"
    r"|<\uff5c[^<>\uff5c\n]{1,40}\uff5c>|</?think>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</s>\s*\Z"
)


def control_token(text: str) -> str | None:
    """The first control token of a chat template, or thinking tag, that was left in the text."""
    match = _CONTROL_TOKEN.search(text)
    return f"control token {match[0]!r}" if match else None


def _misread(character: str) -> str:
    """The character's UTF-8 bytes read as Windows-1252 (its five unassigned bytes as Latin-1)."""
    parts = (bytes([byte]) for byte in character.encode())
    return "".join(b.decode("latin-1" if b in b"\x81\x8d\x8f\x90\x9d" else "cp1252") for b in parts)


_OFTEN_MISREAD = (
    (0xA0, 0xBF), (0xD7, 0xD7), (0xDF, 0xFF), (0x391, 0x3C9), (0x2010, 0x2044), (0x20AC, 0x20AC),
    (0x2190, 0x21D4), (0x2200, 0x22EF), (0xFF08, 0xFF1F),
)  # fmt: skip
_MISREAD = sorted({_misread(chr(code)) for start, end in _OFTEN_MISREAD for code in range(start, end + 1)})
_DAMAGE = re.compile(
    "(?P<replacement_character>\ufffd)|(?P<half_a_character>[\ud800-\udfff])"
    r"|(?P<lost_backslash>\x07(?:lpha|ngle|pprox)|\x08(?:eta|inom|ar\b|oxed|egin|mod)|\x0b(?:ec|ert|dots)"
    r"|\x0c(?:rac|orall|box)|\t(?:imes|heta|ext\{|ext(?:bf|it)|frac|riangle|an\s?[\\(^{\d])|\r(?:ight|angle|ho\b))"
    "|(?P<control_character>[\x00-\x08\x0e-\x1f\x7f-\x9f])"
    f"|(?P<mojibake>(?=[{''.join({form[0] for form in _MISREAD})}])(?:{'|'.join(map(re.escape, _MISREAD))}))"
)
_NEEDS_A_LOOK = re.compile(r"[^ -~\n]")


def damage(text: str) -> str | None:
    """The first sign of wrong decoding: \\ufffd, mojibake, control characters, eaten backslashes.

    Eaten is what becomes of "\\frac" and "\\times" where a reader takes \\f and \\t for form feed and tab.
    """
    match = _DAMAGE.search(text) if _NEEDS_A_LOOK.search(text) else None
    if not match:
        return None
    around = text[max(match.start() - 20, 0) : match.end() + 20]
    return f"{(match.lastgroup or '').replace('_', ' ')} in {around!r}"


_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{(\w+\*?)\}")
_BRACKETS = re.compile(r"\\\\|(?<!\S)\\\[|\\[\]()]")
_DOLLARS = re.compile(r"\\.|\$\$.+?\$\$|\$(?:[^$\\\n]|\\.|\n(?!\s*\n))+\$|(?P<open>\$\$)", re.DOTALL)


def unclosed(text: str) -> str | None:
    """A code fence, \\boxed{, \\begin{}, \\[, \\( or $$ that is opened and never closed."""
    lines = [line.strip() for line in text.splitlines()] if "```" in text else []
    if sum(line.startswith("```") and "```" not in line[3:] for line in lines) % 2:
        return "code fence ``` is not closed"
    text = _CODE.sub(" ", text) if "`" in text else text
    if "\\boxed" in text and _box_is_open(text):
        return "\\boxed{ is not closed"
    if "\\" in text and (name := _open_bracket(text)):
        return f"{name} is not closed"
    if "$$" in text and any(match["open"] for match in _DOLLARS.finditer(text)):
        return "$$ is not closed"
    return None


def _box_is_open(text: str) -> bool:
    boxes: list[bool] = []
    for token in _BRACES.findall(text):
        if token.endswith("{") and token != "\\{":
            boxes.append(len(token) > 1)
        elif token == "}" and boxes:
            boxes.pop()
    return any(boxes)


def _open_bracket(text: str) -> str:
    """What is opened more often than it is closed, empty where nothing is."""
    opened: Counter[str] = Counter()
    for edge, name in _ENVIRONMENT.findall(text):
        opened[f"\\begin{{{name}}}"] += 1 if edge == "begin" else -1
    for bracket in _BRACKETS.findall(text):
        if bracket != r"\\":
            opened["\\[" if bracket[1] in "[]" else "\\("] += 1 if bracket[1] in "[(" else -1
    return next((name for name, count in opened.items() if count > 0), "")


# ------------------------------------------------------------------ not one question for a text model

_IMAGE = re.compile(
    r"!\[[^\]\n]{0,500}\]\([^)\n]{0,2000}\)|!\[Image\]|\[asy\]|\[img\b|<img\b|<svg\b|\\includegraphics\b"
    r"|\\begin\{(?:tikz)?picture\}|data:image/",
    re.IGNORECASE,
)
_PICTURE = r"(?:figure|diagram|picture|image|illustration|drawing|sketch|graph|chart|photo(?:graph)?)s?"
_PICTURE_WORDS = re.compile(
    r"figure|diagram|picture|image|illustr|drawing|sketch|graph|chart|photo|below|\u5982\u56fe"
)
_MENTION = re.compile(
    rf"\b(?:shown|pictured|depicted|illustrated|drawn|marked|shaded)\s(?:below\b(?!\s*:?\s*[\\$\[|])"
    rf"|(?:in|on|by)\s(?:the|this|each|a)\s(?:\w+\s){{0,2}}{_PICTURE}\b)"
    rf"|\b(?:see|refer to|consider|look at|study|according to|from|in|using?)\s(?:the|this)\s"
    rf"(?:\w+\s){{0,2}}{_PICTURE}(?=\s(?:below|above|to the (?:right|left)|shown|shows|on the)|[,.;:)])"
    rf"|\bthe\s(?:accompanying|following|adjacent|adjoining)\s{_PICTURE}\b"
    rf"|\bthe\s{_PICTURE}\s(?:below|above|shows|shown|(?:to|on) the (?:right|left)(?! by))\b|\u5982\u56fe",
    re.IGNORECASE,
)


def image(text: str) -> str | None:
    """The text holds a picture or a drawing program, which a text model cannot see."""
    match = _IMAGE.search(text)
    return f"has {match[0][:200]!r}" if match else None


def image_mention(text: str) -> str | None:
    """The text speaks of a picture ("as shown in the figure", "the diagram below")."""
    match = _MENTION.search(text) if _PICTURE_WORDS.search(text.lower()) else None
    return f"mentions {match[0]!r}" if match else None


_ASK = re.compile(
    r"\?|\b(?:find|determine|prove|show that|calculate|compute|evaluate|solve|express|write down|verify"
    r"|deduce|simplify|factor|derive|sketch)\b",
    re.IGNORECASE,
)
_START, _END = r"(?:^|(?<=[\s$:;,.>]))", r"(?=\s|\$|[A-Z])"
_LISTS = (  # how the second label ends, the labels, their order
    (("2)", "2\uff09"), re.compile(rf"{_START}[(\uff08](\d)[)\uff09]{_END}"), [*"123456789"]),
    (("b)",), re.compile(rf"{_START}\(?([a-h])\){_END}"), [*"abcdefgh"]),
    (("ii)",), re.compile(rf"{_START}\(?([iv]+)\){_END}"), ["i", "ii", "iii", "iv", "v", "vi"]),
    (("II)",), re.compile(rf"{_START}\(?([IV]+)\){_END}"), ["I", "II", "III", "IV", "V", "VI"]),
    (("2.", "2)"), re.compile(r"(?:\A|\n)[ \t]*(\d)[.)]\s"), [*"123456789"]),
    (("art 2", "ART 2"), re.compile(r"(?:\A|\n)[ \t]*(?:\*\*)?(?i:part) (\d)\b"), [*"123456789"]),
    (("art B", "ART B"), re.compile(r"(?:\A|\n)[ \t]*(?:\*\*)?(?i:part) ([A-F])\b"), [*"ABCDEF"]),
)
_MAYBE_NUMBERED = re.compile(r"p ?\d{1,3} ?[.)]|\*\*")
_PROBLEM_NUMBER = re.compile(
    r"(?:^|\n|\*\*)[ \t]*(?:\*\*[ \t]*)?p ?(\d{1,3}) ?[.)]"
    r"|(?:^|(?<=[\s.?!>]))\*\* ?(?i:problem|question|part|round|exercise|task|set|q)? ?"
    r"(\d{1,3}(?:\.\d+)?[A-Z]?) ?[.:)]? ?\*\*"
)


def several_questions(text: str) -> str | None:
    """Two or more numbered parts ask something of their own: `p1. ... p2. ...`, `(a) ... (b) ...`.

    `p1.` and bold numbers are problem numbers by themselves. In other lists (they may be premises or choices)
    the parts must be in order and two of them must ask.
    """
    numbered = _PROBLEM_NUMBER.findall(text) if _MAYBE_NUMBERED.search(text) else []
    numbers = dict.fromkeys(a or b for a, b in numbered)
    if len(numbers) > 1:
        return f"problems numbered {', '.join([*numbers][:5])}"
    for second, pattern, order in _LISTS:
        if not any(end in text for end in second):
            continue
        parts: list[re.Match[str]] = []
        for match in pattern.finditer(text):
            if len(parts) < len(order) and match[1] == order[len(parts)]:  # others are references
                parts.append(match)
        edges = pairwise([match.start() for match in parts] + [len(text)])
        asking = [m[0].strip() for m, (a, b) in zip(parts, edges, strict=True) if _ASK.search(text, a, b)]
        if len(asking) > 1:
            return f"parts {', '.join(asking)} ask something each"
    return None
