"""Which figures of the scoreboard a certificate is whole for."""

from __future__ import annotations

from preread.bench.figures import Figure
from preread.certify.certificate import Certificate
from preread.certify.plan import WHOLE
from preread.models.packaged import SMOLLM2

PASSKEY = "longlora.passkey_32k"
BEFORE, LENGTH = 8_192, 32_768


def figures(certificate: Certificate) -> list[Figure]:
    """Every figure that it is whole for: passkeys to 32k, of the packaged decoder extended from 8k.

    The value is the lowest share of all windows, so that one that fails is not made up for by shorter ones.
    """
    it = certificate
    causal = bool(it.causality) and all(one.holds for one in it.causality)  # who sees ahead sees the key
    whole = it.size == WHOLE.name and not it.cut and bool(it.passkey) and causal
    if not whole or it.base != SMOLLM2.name or (it.span.before, it.span.length) != (BEFORE, LENGTH):
        return []
    least = min(it.passkey, key=lambda share: (share.value, -share.window))
    told = ", ".join(f"{share.window:,} {share.right} of {share.asked}" for share in it.passkey)
    by_length = ", ".join(f"{one.window:,} {one.word}" for one in it.lengths)
    note = (
        f"the lowest of {told}; five depths each; attention {it.attention}; "
        f"loss by length: {by_length or 'not measured'}"
    )
    return [
        Figure(
            PASSKEY,
            least.value,
            least.low,
            least.high,
            "share",
            least.asked,
            recipe="preread certify",
            command=it.command,
            note=note,
            commit=it.commit,
            device=it.device,
            date=it.date,
        )
    ]
