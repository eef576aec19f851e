"""Small ONNX models that once went wrong, as the fuzzers shrank them: entries of the table in onnx_networks.py."""

from onnx_build import IMAGE, Pattern, net, rows

LENGTH = "float[N,L,6] x"
SIZE = "s = Shape(x) l = Gather(s, one)"


def of_length(middle: str, **weights) -> Pattern:
    """Rows of an open length, which the program asks for."""
    found = rows(f"{SIZE} {middle}", inputs=LENGTH, one=1, **weights)
    return found.but(sizes={"L": (5, 7)})


def of_width(middle: str, **weights) -> Pattern:
    """Two convolutions; the program computes with the number of channels between them, twelve, which is rounded."""
    body = f"r = Conv(x, w1) {middle} y = Conv(m, w2)"
    return net(IMAGE, body, w1=(12, 3, 3, 3), w2=(4, 12, 1, 1), **weights)


NETWORKS = {
    "slice_follows_length": lambda: of_length("u = Unsqueeze(l, i0) p = Slice(places, i0, u, i1) m = Add(r, p)", i0=[0], i1=[1], places=(1, 9, 16)),
    "gather_follows_length": lambda: of_length("k = Range(zero, l, one) p = Gather<axis=1>(places, k) m = Add(r, p)", zero=0, places=(1, 9, 16)),
    "gather_follows_length_last": lambda: of_length("k = Sub(l, one) p = Gather<axis=0>(places, k) m = Add(r, p)", places=(9, 16)),
    "number_made_of_width": lambda: of_width("s = Shape(r) k = Gather(s, one) f = Cast<to=1>(k) n = Mul(f, tenth) m = Mul(r, n)", one=1, tenth=0.1),
    "number_made_of_width_by_root": lambda: of_width("s = Shape(r) k = Slice(s, i1, i2, i0) f = Cast<to=1>(k) n = Sqrt(f) m = Div(r, n)", i0=[0], i1=[1], i2=[2]),
    "vector_in_slices": lambda: rows("p = Slice(b, i0, i6) q = Slice(b, i6, i16) c = Concat<axis=0>(q, p) m = Add(r, c)", b=(16,), i0=[0], i6=[6], i16=[16]),
}  # fmt: skip
