"""Vectors for ops of recurrent.cc.

Plain directions, biases and sequences come from torch.nn.LSTM, GRU and RNN, whose gates are put in
the order of the ops; what torch has not (peepholes, clip, other activations, the reset gate before
the product) from the definitions, in float64.
"""

import numpy as np
import torch
from common import Cases, Const, numbers

cases = Cases("recurrent.json", origin="torch.nn.LSTM, GRU and RNN, and numpy from the definitions")
TOLERANCE = {"rtol": 2e-6, "atol": 2e-6}

ACTIVATIONS = {
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0),
    "hard_sigmoid": lambda v: np.clip(0.2 * v + 0.5, 0, 1),
    "sigmoid_hard": lambda v: np.clip(0.2 * v + 0.5, 0, 1),
    "linear": lambda v: v,
}


def f32(t):
    return np.asarray(t.detach().numpy() if isinstance(t, torch.Tensor) else t, dtype=np.float32)


def blocks(matrix, order):
    """The gate blocks of rows in another order."""
    parts = np.split(matrix, len(order))
    return np.concatenate([parts[i] for i in order])


def set_weights(layer, suffix, w_ih, w_hh, b_ih, b_hh):
    for name, value in (("weight_ih", w_ih), ("weight_hh", w_hh), ("bias_ih", b_ih), ("bias_hh", b_hh)):
        getattr(layer, f"{name}_l0{suffix}").data = torch.tensor(value, dtype=torch.float64)


# --- lstm: torch has i, f, z, o; the op i, f, o, z -----------------------------------------------

IFZO_TO_IFOZ = (0, 1, 3, 2)


def lstm_torch(s, b, i, h, direction, sequence, bias, seed, name, opset=5):
    ways = 2 if direction == "bidirectional" else 1
    layer = torch.nn.LSTM(i, h, bidirectional=ways == 2).double()
    x = numbers((s, b, i), seed)
    h0 = numbers((b, ways * h), seed + 1)
    c0 = numbers((b, ways * h), seed + 2)
    inputs = {"x": x, "initial_h": h0, "initial_c": c0}
    for way, (mine, torchs) in enumerate((("", ""), ("_back", "_reverse"))[:ways]):
        w_ih = numbers((4 * h, i), seed + 10 + way, 0.5)
        w_hh = numbers((4 * h, h), seed + 20 + way, 0.5)
        both = numbers((4 * h,), seed + 30 + way) if bias else np.zeros(4 * h, np.float32)
        set_weights(layer, torchs, w_ih, w_hh, both, np.zeros(4 * h))
        inputs["weight_ih" + mine] = Const(blocks(w_ih, IFZO_TO_IFOZ))
        inputs["weight_hh" + mine] = Const(blocks(w_hh, IFZO_TO_IFOZ))
        if bias:
            inputs["bias" + mine] = Const(blocks(both, IFZO_TO_IFOZ))

    def torch_state(state):
        return torch.tensor(np.stack(np.split(state, ways, axis=1)), dtype=torch.float64)

    given = x[::-1].copy() if direction == "reverse" else x
    out, (hn, cn) = layer(torch.tensor(given, dtype=torch.float64), (torch_state(h0), torch_state(c0)))
    h_last, c_last = (np.concatenate(list(f32(t)), axis=1) for t in (hn, cn))
    out = f32(out) if sequence else h_last[None]
    if direction != "forward":
        inputs["direction"] = direction
    if sequence:
        inputs["output_sequence"] = True
    cases.add("lstm", inputs, [out, h_last, c_last], name=name, opset=opset, **TOLERANCE)


lstm_torch(1, 1, 3, 4, "forward", True, True, 100, "one step")
lstm_torch(4, 2, 3, 5, "forward", True, True, 110, "sequence")
lstm_torch(4, 2, 3, 5, "forward", False, True, 120, "last step")
lstm_torch(3, 2, 5, 2, "forward", True, False, 130, "no bias")
lstm_torch(4, 2, 3, 2, "reverse", True, True, 140, "reverse, states in the order they are made")
lstm_torch(4, 1, 3, 2, "reverse", False, True, 150, "reverse, last")
lstm_torch(4, 2, 3, 2, "bidirectional", True, True, 160, "both ways", opset=7)
lstm_torch(3, 3, 1, 3, "bidirectional", False, True, 170, "both ways, last", opset=8)
lstm_torch(3, 1, 2, 2, "bidirectional", True, False, 180, "both ways, no bias")
lstm_torch(7, 1, 9, 17, "forward", False, True, 190, "odd sizes", opset=7)
lstm_torch(2, 33, 2, 6, "forward", False, True, 195, "many rows")


def lstm_plain(x, h, c, w_ih, w_hh, bias, peephole, clip, gate, inner, outer):
    gate, inner, outer = (ACTIVATIONS[a.lower()] for a in (gate, inner, outer))
    x, h, c, w_ih, w_hh, bias, peephole = (
        np.asarray(a, np.float64) for a in (x, h, c, w_ih, w_hh, bias, peephole))
    p_i, p_f, p_o = np.split(peephole, 3)
    out = []
    for step in x:
        i, f, o, z = np.split(step @ w_ih.T + h @ w_hh.T + bias, 4, axis=1)
        c = gate(f + c * p_f) * c + gate(i + c * p_i) * inner(z)
        c = np.clip(c, -clip, clip)
        h = gate(o + c * p_o) * outer(c)
        out.append(h)
    return np.array(out), h, c


def lstm_numpy(seed, name, direction="forward", peephole=False, clip=None, gate="sigmoid",
               inner="tanh", outer="tanh", opset=5, **more):
    s, b, i, h = 5, 2, 3, 4
    ways = 2 if direction == "bidirectional" else 1
    x = numbers((s, b, i), seed)
    h0 = numbers((b, ways * h), seed + 1)
    c0 = numbers((b, ways * h), seed + 2)
    inputs = {"x": x, "initial_h": h0, "initial_c": c0}
    results = []
    for way, suffix in enumerate(("", "_back")[:ways]):
        w_ih = numbers((4 * h, i), seed + 10 + way, 0.5)
        w_hh = numbers((4 * h, h), seed + 20 + way, 0.5)
        bias = numbers((4 * h,), seed + 30 + way)
        peep = numbers((3 * h,), seed + 40 + way) if peephole else np.zeros(3 * h)
        inputs |= {"weight_ih" + suffix: Const(w_ih), "weight_hh" + suffix: Const(w_hh),
                   "bias" + suffix: Const(bias)}
        if peephole:
            inputs["peephole" + suffix] = Const(peep)
        back = way == 1 or direction == "reverse"
        part = slice(way * h, (way + 1) * h)
        out, hn, cn = lstm_plain(x[::-1] if back else x, h0[:, part], c0[:, part], w_ih, w_hh, bias,
                                 peep, np.inf if clip is None else clip, gate, inner, outer)
        results.append((out[::-1] if way == 1 else out, hn, cn))
    inputs |= {"direction": direction, "output_sequence": True, "recurrent_activation": gate,
               "cell_activation": inner, "activation": outer}
    if clip is not None:
        inputs["clip"] = float(clip)
    joined = [f32(np.concatenate(parts, axis=-1)) for parts in zip(*results)]
    cases.add("lstm", inputs, joined, name=name, opset=opset, **(TOLERANCE | more))


lstm_numpy(200, "peephole", peephole=True)
lstm_numpy(210, "peephole, reverse", peephole=True, direction="reverse", opset=7)
lstm_numpy(220, "peephole, both ways", peephole=True, direction="bidirectional")
lstm_numpy(230, "clip bounds the cell", clip=0.25)
lstm_numpy(240, "clip with peephole sees the bounded cell", clip=0.5, peephole=True)
for at, triple in enumerate([
    ("hard_sigmoid", "tanh", "tanh"), ("sigmoid", "relu", "linear"), ("tanh", "sigmoid", "relu"),
    ("sigmoid", "scaled_tanh", "hard_sigmoid"), ("linear", "hard_sigmoid", "scaled_tanh"),
    ("relu", "linear", "sigmoid"), ("SIGMOID", "Tanh", "ReLU"),
]):  # fmt: skip
    lstm_numpy(300 + at, "activations " + " ".join(triple), gate=triple[0], inner=triple[1],
               outer=triple[2], rtol16=0.002, rtol=1e-5)


# --- gru: torch has r, z, o; the op r, o, z ------------------------------------------------------

RZO_TO_ROZ = (0, 2, 1)


def gru_torch(s, b, i, h, direction, sequence, bias, seed, name):
    """torch's reset gate acts on the product: reset_after."""
    layer = torch.nn.GRU(i, h).double()
    x, h0 = numbers((s, b, i), seed), numbers((b, h), seed + 1)
    w_ih, w_hh = numbers((3 * h, i), seed + 2, 0.5), numbers((3 * h, h), seed + 3, 0.5)
    b_ih, b_hh = numbers((3 * h,), seed + 4), numbers((3 * h,), seed + 5)
    if not bias:
        b_ih, b_hh = np.zeros_like(b_ih), np.zeros_like(b_hh)
    set_weights(layer, "", w_ih, w_hh, b_ih, b_hh)
    given = x[::-1].copy() if direction == "reverse" else x
    out, hn = layer(torch.tensor(given, dtype=torch.float64),
                    torch.tensor(h0[None], dtype=torch.float64))
    out = f32(out) if sequence else f32(out)[-1:]
    inputs = {"x": x, "initial_h": h0, "weight_ih": Const(blocks(w_ih, RZO_TO_ROZ)),
              "weight_hh": Const(blocks(w_hh, RZO_TO_ROZ)), "reset_after": True,
              "output_sequence": sequence, "direction": direction}
    if bias:
        inputs |= {"input_bias": Const(blocks(b_ih, RZO_TO_ROZ)),
                   "bias": Const(blocks(b_hh, RZO_TO_ROZ))}
    cases.add("gru", inputs, [out, f32(hn)[0]], name=name, opset=8, **TOLERANCE)


gru_torch(4, 2, 3, 5, "forward", True, True, 400, "reset after the product")
gru_torch(4, 2, 3, 5, "forward", False, True, 410, "reset after, last step")
gru_torch(3, 1, 2, 3, "reverse", True, True, 420, "reset after, reverse")
gru_torch(3, 2, 2, 3, "forward", True, False, 430, "reset after, no bias")


def gru_numpy(seed, name, s=4, b=2, i=3, h=5, direction="forward", sequence=True, bias=True,
              input_bias=False, gate="sigmoid", inner="tanh", opset=5, explicit=True):
    x, h0 = numbers((s, b, i), seed), numbers((b, h), seed + 1)
    w_ih, w_hh = numbers((3 * h, i), seed + 2, 0.5), numbers((3 * h, h), seed + 3, 0.5)
    both = numbers((3 * h,), seed + 4) if bias else np.zeros(3 * h)
    more = numbers((3 * h,), seed + 5) if input_bias else np.zeros(3 * h)
    act_gate, act_inner = ACTIVATIONS[gate], ACTIVATIONS[inner]
    state = h0.astype(np.float64)
    w_r, w_o, w_z = np.split(w_ih.astype(np.float64), 3)
    u_r, u_o, u_z = np.split(w_hh.astype(np.float64), 3)
    b_r, b_o, b_z = np.split(both.astype(np.float64) + more, 3)
    out = []
    for step in x[::-1] if direction == "reverse" else x:
        r = act_gate(step @ w_r.T + state @ u_r.T + b_r)
        z = act_gate(step @ w_z.T + state @ u_z.T + b_z)
        o = act_inner(step @ w_o.T + (r * state) @ u_o.T + b_o)
        state = (1 - z) * o + z * state
        out.append(state)
    out = np.array(out) if sequence else np.array(out)[-1:]
    inputs = {"x": x, "initial_h": h0, "weight_ih": Const(w_ih), "weight_hh": Const(w_hh)}
    if bias:
        inputs["bias"] = Const(both)
    if input_bias:
        inputs["input_bias"] = Const(more)
    if explicit:
        inputs |= {"direction": direction, "output_sequence": sequence,
                   "recurrent_activation": gate, "activation": inner}
    cases.add("gru", inputs, [f32(out), f32(state)], name=name, opset=opset, **TOLERANCE)


gru_numpy(500, "reset before the product")
gru_numpy(510, "defaults", sequence=False, explicit=False, opset=7)
gru_numpy(520, "no bias", bias=False)
gru_numpy(530, "reverse", direction="reverse", b=1)
gru_numpy(540, "reverse, last", direction="reverse", sequence=False)
gru_numpy(550, "activations", gate="hard_sigmoid", inner="relu")
gru_numpy(560, "activations swapped", gate="tanh", inner="sigmoid")
gru_numpy(570, "input bias, reset before", input_bias=True, opset=8)
gru_numpy(580, "input bias alone", input_bias=True, bias=False, opset=9)
gru_numpy(590, "one step, odd sizes", s=1, b=3, i=7, h=13)


# --- rnn -----------------------------------------------------------------------------------------

def rnn_torch(s, b, i, h, direction, sequence, bias, seed, name, activation="tanh"):
    layer = torch.nn.RNN(i, h, nonlinearity=activation).double()
    x, h0 = numbers((s, b, i), seed), numbers((b, h), seed + 1)
    w_ih, w_hh = numbers((h, i), seed + 2, 0.5), numbers((h, h), seed + 3, 0.5)
    both = numbers((h,), seed + 4) if bias else np.zeros(h, np.float32)
    set_weights(layer, "", w_ih, w_hh, both, np.zeros(h))
    given = x[::-1].copy() if direction == "reverse" else x
    out, hn = layer(torch.tensor(given, dtype=torch.float64),
                    torch.tensor(h0[None], dtype=torch.float64))
    inputs = {"x": x, "initial_h": h0, "weight_ih": Const(w_ih), "weight_hh": Const(w_hh)}
    if bias:
        inputs["bias"] = Const(both)
    if direction != "forward":
        inputs["direction"] = direction
    if sequence:
        inputs["output_sequence"] = True
    if activation != "tanh":
        inputs["activation"] = activation
    out = f32(out) if sequence else f32(out)[-1:]
    cases.add("rnn", inputs, [out, f32(hn)[0]], name=name, **TOLERANCE)


rnn_torch(4, 2, 3, 5, "forward", True, True, 600, "sequence")
rnn_torch(4, 2, 3, 5, "forward", False, True, 610, "last step")
rnn_torch(4, 2, 3, 5, "reverse", True, True, 620, "reverse")
rnn_torch(3, 1, 6, 11, "forward", True, False, 630, "no bias")
rnn_torch(3, 2, 3, 4, "forward", True, True, 640, "relu", activation="relu")

x, h0 = numbers((3, 2, 3), 700), numbers((2, 4), 701)
w_ih, w_hh = numbers((4, 3), 702, 0.5), numbers((4, 4), 703, 0.5)
for name in ("sigmoid", "sigmoid_hard", "scaled_tanh", "linear"):
    state, out = h0.astype(np.float64), []
    for step in x.astype(np.float64):
        state = ACTIVATIONS[name](step @ w_ih.T + state @ w_hh.T)
        out.append(state)
    cases.add("rnn", {"x": x, "initial_h": h0, "weight_ih": Const(w_ih), "weight_hh": Const(w_hh),
                      "activation": name, "output_sequence": True},
              [f32(out), f32(state)], name="activation " + name, **TOLERANCE)
nan_x = x.copy()
nan_x[1, 0, 0] = np.nan
state, out = h0.astype(np.float64), []
for step in nan_x.astype(np.float64):
    state = np.maximum(step @ w_ih.T + state @ w_hh.T, 0)
    out.append(state)
cases.add("rnn", {"x": nan_x, "initial_h": h0, "weight_ih": Const(w_ih), "weight_hh": Const(w_hh),
                  "activation": "relu", "output_sequence": True},
          [f32(out), f32(state)], name="relu passes a NaN on", **TOLERANCE)
empty = np.zeros((0, 2, 3), np.float32)
cases.add("rnn", {"x": empty, "initial_h": h0, "weight_ih": Const(w_ih), "weight_hh": Const(w_hh),
                  "output_sequence": True}, [np.zeros((0, 2, 4), np.float32), h0], name="no steps")


# --- errors --------------------------------------------------------------------------------------

good = {"x": x, "initial_h": h0, "weight_ih": Const(w_ih), "weight_hh": Const(w_hh)}


def bad(op, error, base, name, opset=5, **changes):
    cases.add(op, {k: v for k, v in (base | changes).items() if v is not None}, name="error: " + name,
              error=error, opset=opset)


bad("rnn", "x: expected floats with 3 dimensions, got fp", good, "rank", x=x[0])
bad("rnn", "weight_ih: expected shape [4, 3], got [4, 2]", good, "input size", weight_ih=Const(w_ih[:, :2]))
bad("rnn", "weight_hh: expected shape [H, H]", good, "not square", weight_hh=Const(w_hh[:3]))
bad("rnn", "initial_h: expected shape [2, 4], got [1, 4]", good, "batch", initial_h=h0[:1])
bad("rnn", "bias: expected shape [4], got [3]", good, "bias", bias=Const(h0[0, :3]))
bad("rnn", "direction: 'bidirectional' is none of forward, reverse", good, "direction",
    direction="bidirectional")
bad("rnn", "activation: 'softplus' is none of", good, "activation", activation="softplus")
bad("rnn", "x: has no steps", good, "no last step", x=empty)
bad("rnn", "x: expected floats", good, "integers", x=np.ones((3, 2, 3), np.int32))
g_ih, g_hh = numbers((12, 3), 710), numbers((12, 4), 711)
gru = good | {"weight_ih": Const(g_ih), "weight_hh": Const(g_hh)}
bad("gru", "weight_hh: expected shape [3H, H], got [4, 4]", gru, "gates", weight_hh=Const(w_hh))
bad("gru", "input_bias: expected shape [12], got [4]", gru, "input bias", opset=8,
    input_bias=Const(h0[0]))
bad("gru", "recurrent_activation: 'x' is none of", gru, "activation", recurrent_activation="x")
l_ih, l_hh = numbers((16, 3), 720), numbers((16, 4), 721)
lstm = good | {"weight_ih": Const(l_ih), "weight_hh": Const(l_hh), "initial_c": h0}
bad("lstm", "weight_hh: expected shape [4H, H], got [12, 4]", lstm, "gates", weight_hh=Const(g_hh))
bad("lstm", "initial_c: expected shape [2, 4], got [2, 3]", lstm, "cell", initial_c=h0[:, :3])
bad("lstm", "peephole: expected shape [12], got [16]", lstm, "peephole", peephole=Const(l_ih[:, 0]))
bad("lstm", "initial_h: expected shape [2, 8], got [2, 4]", lstm, "states of both ways",
    direction="bidirectional", weight_ih_back=Const(l_ih), weight_hh_back=Const(l_hh))
both = numbers((2, 8), 722)
bad("lstm", "weight_ih_back: expected a tensor, got nothing", lstm, "no weights for the way back",
    direction="bidirectional", initial_h=both, initial_c=both)
bad("lstm", "direction: 'sideways' is none of forward, reverse, bidirectional", lstm, "direction",
    direction="sideways")
bad("lstm", "cell_activation: 'x' is none of", lstm, "activation", cell_activation="x")
bad("lstm", "clip: expected one number", lstm, "clip", clip=[1.0, 2.0])

cases.write()
