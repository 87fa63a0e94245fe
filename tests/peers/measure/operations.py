"""How many operations the rows' true tokens need, to compare a rate with what the machine could do.

Letters: t tokens of a sequence without padding, P prefix length, H hidden size, I inner size, L layers.
A multiplication and an addition are two operations; only matrix products count.

The plain count, of a sequence and a layer:

    forward    linear layers    2·t·(4H² + 2·H·I)      query, key, value, output; up and down
               attention        4·t·(P + t)·H          scores, and their product with the values
    backward   linear layers    the same again         through activations only: weights are frozen
               attention        twice the same         each of its two products has two factors

The least count, for two layers or more, leaves out what the result does not depend on:

    last layer    only the first position is read by the head: one query, one output, one up and down;
                  keys and values of all
    first layer   nothing below it is trained: no backward through query, key and value

ptv2 computes neither, so its share of the machine's limit is honest by this count, and by the plain one
it says how fast a program would have to be that does not leave them out. (The first layer's attention
could leave out 0.4 % more: the gradients of its query and of the text's keys and values.)
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A backbone's sizes."""

    hidden: int
    inner: int
    layers: int

    @classmethod
    def of(cls, config):
        return cls(config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"])


def plain(shape, prefix, tokens, training):
    """Operations of one sequence by the plain count."""
    h, i = shape.hidden, shape.inner
    linear = 2 * tokens * (4 * h * h + 2 * h * i)
    attention = 4 * tokens * (prefix + tokens) * h
    if training:
        return shape.layers * (2 * linear + 3 * attention)
    return shape.layers * (linear + attention)


def least(shape, prefix, tokens, training):
    """Operations of one sequence by the least count."""
    h, i = shape.hidden, shape.inner
    square = 2 * h * h
    # Positions that the last layer's query, output, up and down projections leave out.
    unread = tokens - 1
    unread_linear = unread * (2 * square + 4 * h * i)
    unread_attention = 4 * unread * (prefix + tokens) * h
    if training:
        below = 3 * tokens * square
        return plain(shape, prefix, tokens, True) - 2 * unread_linear - 3 * unread_attention - below
    return plain(shape, prefix, tokens, False) - unread_linear - unread_attention


def per_token(count, shape, prefix, lengths, training):
    """Operations that a token of rows of such lengths needs, on the average."""
    return sum(count(shape, prefix, tokens, training) for tokens in lengths) / sum(lengths)
