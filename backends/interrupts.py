"""Ctrl-C while the compiler calls back into Python."""


def keep_interrupts() -> None:
    """Let `KeyboardInterrupt` and `SystemExit` pass through compiled code as what they are.

    Otherwise they come out as `RuntimeError`, like an error of a pass, and those who can do without that pass go on.
    """
    import tvm_ffi  # not before something is compiled: pruning needs no compiler

    for kind in (KeyboardInterrupt, SystemExit):
        tvm_ffi.register_error(kind.__name__, kind)
