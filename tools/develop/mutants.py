# SPDX-License-Identifier: MIT
"""Faults that nobody chose: operators over lines of Swift, C and Python.

`candidates(path, text)` yields every fault of one line that can stand behind a switch: an expression of the line is
replaced by a wrong one, or a statement is left out. The operators: comparison and boundary, off by one, arithmetic,
logic, dropped statement, dropped guard, lost error, swapped arguments, constant, missing member of a list.
"""
import re

# (pattern, replacement, name); applied to one place of an expression at a time.
REPLACEMENTS = [
    (r" < ", " <= ", "boundary"), (r" <= ", " < ", "boundary"),
    (r" > ", " >= ", "boundary"), (r" >= ", " > ", "boundary"),
    (r" == ", " != ", "comparison"), (r" != ", " == ", "comparison"),
    (r" \+ ", " - ", "arithmetic"), (r" - ", " + ", "arithmetic"), (r" \* ", " + ", "arithmetic"),
    (r" / ", " * ", "arithmetic"), (r" % ", " / ", "arithmetic"), (r" << ", " >> ", "arithmetic"),
    (r" && ", " || ", "logic"), (r" \|\| ", " && ", "logic"), (r" and ", " or ", "logic"), (r" or ", " and ", "logic"),
    (r"(?<![\w.\"'])!(?=[\w(])", "", "logic"),
    (r"\btrue\b", "false", "constant"), (r"\bfalse\b", "true", "constant"),
    (r"\bTrue\b", "False", "constant"), (r"\bFalse\b", "True", "constant"),
    (r"\bmin\(", "max(", "constant"), (r"\bmax\(", "min(", "constant"),
    (r"\.prefix\(", ".suffix(", "constant"), (r"\.dropFirst\(", ".dropLast(", "constant"),
    (r"\.first\b", ".last", "constant"),
]
NUMBER = re.compile(r"(?<![\w.\"'#$])(\d+)(?![\w.]|\s*[:)]?\s*\"\")")
ARGUMENTS = re.compile(r"\((\w[\w.]*), (\w[\w.]*)(?=[,)])")


def masked(line):
    """The line with the contents of texts blanked and comments cut, of the same length up to there."""
    out, quote, i = [], None, 0
    while i < len(line):
        c = line[i]
        if quote:
            if c == "\\":
                out.append("__")
                i += 2
                continue
            if c == quote:
                quote = None
                out.append(c)
            else:
                out.append("_")
        elif c == '"':
            quote = c
            out.append(c)
        elif line.startswith("//", i) or line.startswith("/*", i):
            break
        else:
            out.append(c)
        i += 1
    return None if quote else "".join(out)


def wrong_versions(expression):
    """(wrong expression, operator) for every single fault of an expression; texts are left alone."""
    plain = masked(expression)
    if plain is None or len(plain) < len(expression.rstrip()):
        return
    for pattern, replacement, name in REPLACEMENTS:
        for match in re.finditer(pattern, plain):
            yield expression[:match.start()] + replacement + expression[match.end():], name
    # Not `...`, which is another type than `..<`.
    match = re.fullmatch(r"[^,]+\.\.<[\w.\[\]() +*/-]+", plain)
    if match and is_balanced(expression.split("..<")[1]):
        yield expression.rstrip() + " + 1", "boundary"
    for match in NUMBER.finditer(plain):
        value = str(int(match.group(1)) + 1)
        yield expression[:match.start(1)] + value + expression[match.end(1):], "off by one"
    for match in ARGUMENTS.finditer(plain):
        a, b = match.group(1), match.group(2)
        if a != b:
            yield expression[:match.start()] + f"({b}, {a}" + expression[match.end():], "swapped arguments"
    for match in re.finditer(r"\[([^\[\]]*), ([^\[\],]*)\]", plain):
        start, end = match.span(2)
        if not is_balanced(match.group(1)) or not is_balanced(match.group(2)):
            continue
        yield expression[:start - 2] + expression[end:], "missing member"


def is_balanced(text):
    plain = masked(text)
    if plain is None:
        return False
    depth = 0
    for c in plain:
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return False
    return depth == 0


def switch(language, number, wrong, right):
    if language == "python":
        return f"(({wrong}) if _mutant({number}) else ({right}))"
    condition = f"rk_active({number})" if language == "c" else f"activeMutant({number})"
    prefix = ""
    if language == "swift":
        while True:
            match = re.match(r"(try|await) ", right)
            if not match:
                break
            prefix += match.group(0)
            wrong, right = wrong[match.end():], right[match.end():]
    return f"{prefix}({condition} ? ({wrong}) : ({right}))"


SWIFT_FORMS = [
    re.compile(r"^(\s*guard )(?!let |var |case )(.*)( else \{.*)$"),
    re.compile(r"^(\s*(?:\} else )?if )(?!let |var |case |#)(.*)( \{.*)$"),
    re.compile(r"^(\s*while )(?!let |case )(.*)( \{.*)$"),
    re.compile(r"^(\s*return )(.+)()$"),
    re.compile(r"^(\s*(?:let|var) \w+(?:: [\w\[\]<>?. ]+)? = )(.+)()$"),
    re.compile(r"^(\s*[\w.\[\]()]+ (?:=|\+=|-=|\*=|\|=|&=|\^=) )(.+)()$"),
    re.compile(r"^(\s*for \w+ in )(.*)( \{.*)$"),
]
C_FORMS = [
    re.compile(r"^(\s*(?:\} else )?if \()(.*)(\) .*)$"),
    re.compile(r"^(\s*while \()(.*)(\) .*)$"),
    re.compile(r"^(\s*for \([^;]*; )([^;]*)(;.*)$"),
    re.compile(r"^(\s*return )(.+)(;)$"),
    re.compile(r"^(\s*(?:const )?[\w]+(?: \*?)\w+ = )(.+)(;)$"),
    re.compile(r"^(\s*[\w.\[\]()>\-]+ (?:=|\+=|-=|\*=|\|=|&=|\^=) )(.+)(;)$"),
]
PYTHON_FORMS = [
    re.compile(r"^(\s*(?:el)?if )(.*)(:)$"), re.compile(r"^(\s*while )(.*)(:)$"),
    re.compile(r"^(\s*return )(.+)()$"), re.compile(r"^(\s*[\w.\[\]]+ (?:=|\+=|-=) )(.+)()$"),
    re.compile(r"^(\s*for [\w, ]+ in )(.*)(:)$"),
]


def language_of(path):
    return "swift" if path.endswith(".swift") else "python" if path.endswith(".py") else "c"


def statement(language, line):
    """Whether the line is one whole statement that can be left out, and which operator that is."""
    text = line.strip()
    if language == "swift":
        if re.match(r"throw ", text):
            return "lost error"
        is_call = re.match(r"(try )?[\w.]+(\[[^\]]*\])?\(.*\)$", text)
        if is_call and not re.match(r"(super|self)\.init|fatalError|precondition", text):
            return "dropped statement"
        if re.match(r"[\w.]+(\[[^\]]*\])? (=|\+=|-=|\|=) ", text):
            return "dropped statement"
    elif language == "python":
        if text.startswith("raise "):
            return "lost error"
        if re.match(r"[\w.]+\(.*\)$", text) or re.match(r"[\w.\[\]]+ \+= ", text):
            return "dropped statement"
    elif re.match(r"[\w.>\-]+(\[[^\]]*\])?(\(.*\)| (=|\+=|-=|\|=) .*);$", text) and not text.startswith("return"):
        return "dropped statement"
    return None


def is_in_guard(lines, index):
    """Whether a line belongs to the body of a guard, which must not go on behind it."""
    def indent(text):
        return len(text) - len(text.lstrip())

    for line in reversed(lines[:index]):
        if line.strip() and indent(line) < indent(lines[index]):
            return "guard" in line or line.strip().endswith("else {")
    return False


def candidates(path, text):
    """(line number from 0, operator, description, function from a mutant's number to the line with its switch)."""
    language = language_of(path)
    forms = {"swift": SWIFT_FORMS, "c": C_FORMS, "python": PYTHON_FORMS}[language]
    in_text = in_comment = False
    lines = text.split("\n")
    for index, line in enumerate(lines):
        quotes = line.count('"""')
        if quotes % 2 == 1:
            in_text = not in_text
        if "/*" in line and "*/" not in line:
            in_comment = True
        if "*/" in line:
            in_comment = False
            continue
        stripped = line.strip()
        if in_text or quotes or in_comment or not stripped or stripped[0] in "/#@*" or line.endswith("\\"):
            continue
        if not line.startswith((" ", "\t")):
            continue
        if stripped.startswith(("case ", "static ", "private ", "package ", "public ")):
            continue
        if language == "c" and ("RK_" in line and "#" in line):
            continue
        # A statement that goes on on the next line or began before is left alone.
        following = lines[index + 1].strip() if index + 1 < len(lines) else ""
        if language == "swift" and following.startswith((".", "+ ", "- ", "? ", ": ", "&& ", "|| ", "== ", "* ", "/ ")):
            continue
        if stripped.startswith((".", "+ ", "- ", "? ", ": ", "&& ", "|| ", "== ", "* ", "/ ")):
            continue
        kind = statement(language, line)
        if kind == "lost error" and language == "swift" and is_in_guard(lines, index):
            kind = None
        if kind and is_balanced(stripped):
            indent = line[: len(line) - len(line.lstrip())]
            make = {
                "swift": lambda n, s=stripped, i=indent: f"{i}if !activeMutant({n}) {{ {s} }}",
                # In braces, or an `else` that follows would be this one's.
                "c": lambda n, s=stripped, i=indent: f"{i}{{ if (!rk_active({n})) {{ {s} }} }}",
                "python": lambda n, s=stripped, i=indent: f"{i}if not _mutant({n}): {s}",
            }[language]
            yield index, kind, f"{stripped}  ->  (left out)", make
        for form in forms:
            match = form.match(line)
            if not match or not is_balanced(match.group(2)) or not match.group(2).strip():
                continue
            before, right, after = match.groups()
            if language == "swift" and re.search(r"\b(let|case) |, \w+ [<>=!]|\{|\$\d", right):
                continue
            for wrong, operator in wrong_versions(right):
                yield (index, operator, f"{right}  ->  {wrong}",
                       lambda n, b=before, w=wrong, r=right, a=after: b + switch(language, n, w, r) + a)
            if before.strip() == "guard":
                yield (index, "dropped guard", f"guard {right}  ->  true",
                       lambda n, b=before, r=right, a=after: b + switch(language, n, "true", r) + a)
            break
