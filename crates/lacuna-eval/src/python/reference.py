# Runs a task's own solution on the inputs of its tests: the arguments as plain values, what it returns, and how long it
# takes. The inputs come as the data set's own text, since numbers of any size and `NaN` stand in it.


# Tasks of MBPP+ whose inputs are no lists, by the kinds that JSON lost.
EACH_TUPLE = (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809)
LISTS_OF_TUPLES = (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)
FIRST_IS_TUPLES = (75, 413, 444, 753)
FIRST_IS_TUPLE = (250, 405, 446, 617, 720, 763, 808)
TUPLES_OF_TUPLES = (259, 401, 445)
ALL_TUPLES = (580, 615, 791)


def tuples(value):
    return tuple(tuples(item) for item in value) if type(value) is list else value


def mbpp(number, given):
    """The arguments of a call as the task means them."""
    if number in EACH_TUPLE:
        return [tuple(item) for item in given]
    if number in LISTS_OF_TUPLES:
        return [[tuple(item) for item in items] for items in given]
    if number in FIRST_IS_TUPLES:
        return [[tuple(item) for item in given[0]], given[1]]
    if number in (106, 750):
        return [given[0], tuple(given[1])]
    if number == 115:
        # An empty list is an empty dictionary there, as in the harness that the scores are compared with.
        return [[set(item) if type(item) is list and item else {} for item in given[0]]]
    if number == 124:
        return [float(given[0]), complex(given[1])]
    if number in FIRST_IS_TUPLE:
        return [tuple(given[0]), given[1]]
    if number in TUPLES_OF_TUPLES:
        return [tuple(tuple(item) for item in items) for items in given]
    if number == 278:
        return [tuple(tuple(item) if type(item) is list else item for item in given[0])]
    if number == 307:
        return [tuple(given[0]), given[1], given[2]]
    if number == 722:
        return [{key: tuple(item) for key, item in given[0].items()}] + given[1:]
    if number == 252:
        return [complex(given[0])]
    if number in ALL_TUPLES:
        return list(tuples(given))
    return given


def solve():
    import copy
    import time

    request, tell = begin()
    names = {}
    try:
        allow(request["seconds"])
        exec(compile(request["code"], "<solution>", "exec"), names)
        function = names[request["entry"]]
        for given in json.loads(request["inputs"]):
            given = mbpp(request["mbpp"], given)
            arguments = encode(list(given))
            given = copy.deepcopy(given)
            began = time.perf_counter()
            result = function(*given)
            took = time.perf_counter() - began
            tell(k="ok", a=arguments, v=encode(result is not None if request["is_some"] else result), s=took)
        allow(0)
    except Late:
        return tell(k="late")
    except BaseException as error:
        return tell(k="err", v=type(error).__name__, m=words(error))
    tell(k="end")


solve()
os._exit(0)
