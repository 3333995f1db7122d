# Loads a candidate and calls a function of it with each list of arguments. It knows no expected result, so whoever takes
# this process over has nothing to copy from.


def serve():
    import time

    request, tell = begin()
    names = {}
    left = request["seconds"]
    started = time.perf_counter()
    try:
        allow(left)
        exec(compile(request["code"], "<candidate>", "exec"), names)
        function = names[request["entry"]]
        allow(0)
    except Late:
        return tell(k="late")
    except BaseException as error:
        return tell(k="bad", v=type(error).__name__, m=words(error))
    for call in request["calls"]:
        left = request["seconds"] - (time.perf_counter() - started)
        arguments, named = decode(call["a"]), decode(call["k"])
        began = time.perf_counter()
        try:
            try:
                allow(max(min(call["s"], left), 0.001))
                result = function(*arguments, **named)
            finally:
                allow(0)
            took = time.perf_counter() - began
            tell(k="ok", v=encode(result), s=took)
        except Late:
            tell(k="late")
        except Odd as odd:
            tell(k="odd", v=words(odd))
        except (RecursionError, MemoryError, UnicodeEncodeError) as error:
            tell(k="err", v=type(error).__name__, m=words(error))
        except BaseException as error:
            tell(k="err", v=type(error).__name__, m=words(error))


serve()
os._exit(0)
