# Takes out of an answer the definitions that a function needs: the longest part of the text that parses, of that the
# imports, and the top-level definitions that can be reached from the function by name. The order is that of the text.
import ast


def parses(text):
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def longest(lines):
    """The run of lines with the most that are not blank, of those that parse: as EvalPlus chooses it."""
    whole = parses("\n".join(lines))
    if whole:
        return lines
    best, filled = [], 0
    for first in range(len(lines)):
        for last in range(len(lines), first, -1):
            part = lines[first:last]
            count = sum(1 for line in part if line.strip())
            if count <= filled:
                break
            if parses("\n".join(part)):
                best, filled = part, count
                break
    return best


def name_of(node):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return None


def uses(node):
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return names - {name_of(node)}


def returns(node):
    is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    return not is_function or any(isinstance(inner, ast.Return) for inner in ast.walk(node))


def kept(lines, entry):
    tree = parses("\n".join(lines))
    imports = (ast.Import, ast.ImportFrom)
    definitions, seen = {}, set()
    for node in tree.body:
        name = name_of(node)
        # The first definition of a name is the one that is kept; a function that returns nothing is a sketch.
        if name and name not in seen and returns(node):
            seen.add(name)
            definitions[name] = node
    reached, open_names = set(), [entry]
    while open_names:
        name = open_names.pop()
        if name in reached:
            continue
        reached.add(name)
        if name in definitions:
            open_names.extend(uses(definitions[name]))
    keep = {id(definitions[name]) for name in reached if name in definitions}
    parts = []
    for node in tree.body:
        if isinstance(node, imports) or id(node) in keep:
            first = min([node.lineno] + [d.lineno for d in getattr(node, "decorator_list", [])])
            parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n".join(parts) if entry in definitions else ""


def sanitize():
    request, tell = begin()
    lines = request["text"].split("\n")
    best = longest(lines[: request["lines"]])
    code = kept(best, request["entry"]) if best else ""
    tell(code=code or "\n".join(best))


sanitize()
os._exit(0)
