"""How an engine looks wherever it is drawn: one colour, one marker. The marker tells ZeRO's stages apart."""

import math

# Okabe & Ito 2008, as in the figures of `ringzero plot`.
COLOURS = {
    "single": "#5b6770",
    "ddp": "#0072B2",
    "fsdp": "#56B4E9",
    "zero": "#E69F00",
    "horovod": "#009E73",
    "ring": "#CC79A7",
}
UNKNOWN = "#6b7480"
# corners, turn of the first one in degrees from the top
SHAPES = {"star": (5, 0), "square": (4, 45), "up": (3, 0), "right": (3, 90), "down": (3, 180), "left": (3, 270),
          "diamond": (4, 0), "pentagon": (5, 0), "circle": (0, 0), "unknown": (0, 0)}  # fmt: skip
MARKERS = {"single": "star", "ddp": "circle", "fsdp": "square", "zero-0": "up", "zero-1": "right", "zero-2": "down",
           "zero-3": "left", "horovod": "diamond", "ring": "pentagon"}  # fmt: skip
# Tol's muted scheme; the second of a pair is for a dark page
MEMORY = {
    "parameters": ("#332288", "#8f7ee6"),
    "gradients": ("#44AA99", "#44AA99"),
    "optimizer": ("#CC6677", "#CC6677"),
    "buffers": ("#999933", "#b9b94a"),
    "activations": ("#DDCC77", "#DDCC77"),
    "data": ("#88CCEE", "#88CCEE"),
    "workspace": ("#117733", "#3aa35c"),
    "allocator": ("#882255", "#c7578f"),
    "mapped": ("#AA4499", "#c774b8"),
    "runtime": ("#661100", "#b5663d"),
    "other": ("#b9bfc7", "#4d5662"),
}

# The same scheme; communication in the colour that stands out from all others.
PHASES = {
    "data": ("#b9bfc7", "#4d5662"),
    "forward": ("#88CCEE", "#88CCEE"),
    "backward": ("#332288", "#8f7ee6"),
    "optimizer": ("#44AA99", "#44AA99"),
    "communication": ("#CC6677", "#CC6677"),
}


def family(label: str) -> str:
    """The colour's name: zero-2-offload -> zero; `other` for an engine that has none."""
    name = label.split("-")[0]
    return name if name in COLOURS else "other"


def hollow(label: str) -> bool:
    """An engine that offloads is drawn as the one that does not, unfilled."""
    return label.endswith("-offload")


def marker(label: str, x: float, y: float, radius: float = 4.0) -> str:
    """The outline of an engine's marker around (x, y) as an SVG path."""
    shape = MARKERS.get(label.removesuffix("-offload"), "unknown")
    corners, turn = SHAPES[shape]
    if shape == "unknown":  # a plus: no engine's
        a, b = radius * 0.4, radius * 1.1
        arms = (
            (-a, -b),
            (a, -b),
            (a, -a),
            (b, -a),
            (b, a),
            (a, a),
            (a, b),
            (-a, b),
            (-a, a),
            (-b, a),
            (-b, -a),
            (-a, -a),
        )
        return f"M{'L'.join(f'{x + dx:.1f} {y + dy:.1f}' for dx, dy in arms)}z"
    if not corners:
        return (
            f"M{x - radius:.1f} {y:.1f}a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 {-2 * radius} 0z"
        )
    outer = radius * (1.15 if corners > 3 else 1.3)
    count = corners * 2 if shape == "star" else corners
    points = []
    for corner in range(count):
        size = outer * (0.45 if shape == "star" and corner % 2 else 1.0)
        angle = math.radians(turn + 360 * corner / count)
        points.append(f"{x + size * math.sin(angle):.1f} {y - size * math.cos(angle):.1f}")
    return f"M{'L'.join(points)}z"


def variables(dark: bool) -> str:
    """CSS variables of every colour that carries data."""
    engines = {**COLOURS, "other": UNKNOWN}
    if dark:  # a plain process is ink: grey on near-black would not be seen
        engines["single"] = "#a9b4be"
    parts = {
        f"{kind}-{name}": pair[dark] for kind, named in (("m", MEMORY), ("p", PHASES)) for name, pair in named.items()
    }
    return "".join(f"--e-{name}:{value};" for name, value in engines.items()) + "".join(
        f"--{name}:{value};" for name, value in parts.items()
    )


def classes() -> str:
    """CSS rules that give `.e-<engine>` and `.m-<category>`, `.p-<phase>` their colour as --c."""
    names = [
        *(f"e-{name}" for name in (*COLOURS, "other")),
        *(f"m-{name}" for name in MEMORY),
        *(f"p-{name}" for name in PHASES),
    ]
    return "".join(f".{name}{{--c:var(--{name})}}" for name in names)
