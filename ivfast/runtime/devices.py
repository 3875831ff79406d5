"""What --gpu names: a device, several of them, or all."""

from ivfast.runtime.errors import UserError

CPU, ALL = -1, "all"
Gpu = int | tuple[int, ...] | str  # number of a GPU, -1 is the CPU; numbers of several; or "all"


def number_or_all(word: str) -> int | str:
    """A word of the command line. raises: ValueError, for argparse"""
    return ALL if word == ALL else int(word)


def numbers_or_all(word: str) -> Gpu:
    """The same in one word, with commas. raises: ValueError, for argparse"""
    return as_gpu([number_or_all(part) for part in word.split(",")])


def as_gpu(words: list[int | str]) -> Gpu:
    """What the words of --gpu name together.

    raises: UserError where they can't be meant together
    """
    if len(words) == 1:
        return words[0]
    named = " ".join(map(str, words))
    numbers = tuple(word for word in words if isinstance(word, int))
    if len(numbers) < len(words):
        raise UserError(f"--gpu {named}: expected either all or numbers; leave one of them out")
    if min(numbers) < 0:
        raise UserError(f"--gpu {named}: -1 is the CPU, which stands alone; leave it or the others out")
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--gpu {named}: a number stands twice; name each GPU once")
    return numbers


def check_gpu(gpu: Gpu) -> None:
    """raises: UserError on what names no device"""
    if isinstance(gpu, str):
        if gpu != ALL:
            raise UserError(f"--gpu {gpu}: expected numbers, -1 for the CPU, or all; correct it")
        return
    numbers = [gpu] if isinstance(gpu, int) else list(gpu)
    if not numbers or min(numbers) < CPU:
        raise UserError(f"--gpu {' '.join(map(str, numbers))}: expected -1 or more; correct it")
    as_gpu([*numbers])


def on_cpu(gpu: Gpu) -> bool:
    """Whether it is the CPU."""
    return gpu == CPU


def numbers_of(gpu: Gpu, n_there: int, framework: str) -> tuple[int, ...]:
    """Numbers of the GPUs that are named.

    n_there: GPUs that the framework sees
    raises: UserError where one is not there
    """
    if isinstance(gpu, str):
        numbers: tuple[int, ...] = tuple(range(n_there)) or (0,)
    else:
        numbers = (gpu,) if isinstance(gpu, int) else gpu
    if absent := [number for number in numbers if number >= n_there]:
        named = gpu if isinstance(gpu, str) else absent[0]
        choose = "choose one of them, or --gpu -1 for the CPU" if n_there else "take --gpu -1, the CPU"
        raise UserError(f"--gpu {named}: {framework} sees {n_there or 'no'} GPU{'s' * (n_there != 1)}; {choose}")
    return numbers
