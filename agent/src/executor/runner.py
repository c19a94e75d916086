# Calls one function of one module. Arguments: root, file, function, input file, report file, most bytes of the result.
import sys

# Not from the working directory: a module there may bear the name of one of Python's own. Its directory comes first when it is loaded.
sys.path = [entry for entry in sys.path if entry]

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import traceback


def load(root, file):
    """Imports the file, under its own dotted name where it has one, so that imports relative to its package work."""
    sys.path.insert(0, root)
    name, _ = os.path.splitext(os.path.relpath(file, root))
    parts = name.split(os.sep)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    if all(part.isidentifier() for part in parts):
        try:
            module = importlib.import_module(".".join(parts))
            if os.path.realpath(getattr(module, "__file__", None) or "") == file:
                return module
        except ModuleNotFoundError as error:
            # A parent of that name is something else, such as a module of Python's own.
            if not ".".join(parts).startswith(error.name or "\0"):
                raise
    spec = importlib.util.spec_from_file_location("orrery_function_module", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call(function, parameters):
    """Calls it with the parameters as its one argument, or without where it takes none."""
    try:
        taken = inspect.signature(function).parameters.values()
        takes = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in taken)
    except (TypeError, ValueError):
        takes = True
    returned = function(parameters) if takes else function()
    if inspect.isawaitable(returned):

        async def awaited():
            return await returned

        returned = asyncio.run(awaited())
    return returned


def raised(error):
    # The frames of this runner say nothing to the one who reads it.
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
        trace = trace.tb_next
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    if not isinstance(error, SyntaxError):
        text = str(error)
        message = type(error).__name__ + (": " + text if text else "")
    return {"raised": {"message": message, "stack": "".join(traceback.format_exception(type(error), error, trace))}}


def report(root, file, name, source, most):
    try:
        with open(source, encoding="utf-8") as text:
            parameters = json.load(text)
        module = load(root, file)
        function = getattr(module, name, None)
        if not callable(function):
            return {"no_function": "%s has no function %r" % (os.path.relpath(file, root), name)}
        returned = call(function, parameters)
        text = json.dumps(returned, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode("utf-8", "replace"))
        return {"too_large": size} if size > most else '{"returned":' + text + "}"
    except BaseException as error:
        return raised(error)


def main():
    root, file, name, source, target, most = sys.argv[1:]
    sys.argv = [file]
    told = report(root, file, name, source, int(most))
    with open(target, "w", encoding="utf-8", errors="replace") as out:
        out.write(told if isinstance(told, str) else json.dumps(told))


main()
