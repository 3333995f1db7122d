# Runs a program and its tests in one namespace, and says that it came to the end. The program shares its process with
# what judges it, so a hostile one can forge the end; the judge says so in its verdict.


def run():
    request, tell = begin()
    names = {}
    try:
        allow(request["seconds"])
        exec(compile(request["code"], "<candidate>", "exec"), names)
        exec(compile(request["test"], "<tests>", "exec"), names)
        allow(0)
    except Late:
        return tell(k="late")
    except BaseException as error:
        return tell(k="failed", v=type(error).__name__, m=words(error))
    tell(k="passed")


run()
os._exit(0)
