"""GPUs by name: memory, dense bfloat16 peak, bandwidth and links, from their makers' data sheets.

Sources: NVIDIA's data sheets of H100 (SXM), H200, A100 (SXM), L40S, L4 and HGX B200; the appendices of NVIDIA's Ada
and Ampere (GA102) whitepapers for the RTX cards and the A6000, whose peaks are those with float32 accumulation. Where a
sheet gives the peak with sparsity, half of it stands here. ``usable_gib`` is what a program sees, which is a little
less than the name says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from insight_rl.errors import check


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One kind of GPU.

    Example: ``Card(name="h100-80gb", usable_gib=79.1, bf16_tflops=989, bandwidth_gbs=3350, link_gbs=450)``.
    """

    name: str
    usable_gib: float
    bf16_tflops: float
    """Dense, float32 accumulation."""
    bandwidth_gbs: float
    """Of its memory, in 1e9 bytes a second."""
    link_gbs: float
    """To other cards, each way, in 1e9 bytes a second: NVLink, or 16 lanes of PCIe."""

    @property
    def num_bytes(self) -> int:
        return int(self.usable_gib * 2**30)


CARDS = {
    card.name: card
    for card in (
        Card(name="b200-180gb", usable_gib=178.4, bf16_tflops=2250, bandwidth_gbs=7700, link_gbs=900),
        Card(name="h200-141gb", usable_gib=139.8, bf16_tflops=989, bandwidth_gbs=4800, link_gbs=450),
        Card(name="h100-80gb", usable_gib=79.1, bf16_tflops=989, bandwidth_gbs=3350, link_gbs=450),
        Card(name="a100-80gb", usable_gib=79.1, bf16_tflops=312, bandwidth_gbs=2039, link_gbs=300),
        Card(name="a100-40gb", usable_gib=39.4, bf16_tflops=312, bandwidth_gbs=1555, link_gbs=300),
        Card(name="l40s-48gb", usable_gib=44.4, bf16_tflops=362, bandwidth_gbs=864, link_gbs=32),
        Card(name="a6000-48gb", usable_gib=47.4, bf16_tflops=155, bandwidth_gbs=768, link_gbs=32),
        Card(name="rtx4090-24gb", usable_gib=23.5, bf16_tflops=165, bandwidth_gbs=1008, link_gbs=32),
        Card(name="rtx3090-24gb", usable_gib=23.6, bf16_tflops=71, bandwidth_gbs=936, link_gbs=32),
        Card(name="l4-24gb", usable_gib=22.0, bf16_tflops=121, bandwidth_gbs=300, link_gbs=32),
    )
}


def card_named(name: str) -> Card:
    """Raises ``UsageError`` with the list of names for one that is not among them."""
    check(name in CARDS, "doctor.gpu", name, f"must be one of {', '.join(CARDS)}, or null for what is here")
    return CARDS[name]


def cards_here() -> list[Card]:
    """The GPUs that this process sees, by CUDA's own figures for their memory; peak and bandwidth from the table.

    A kind that is not in the table gets those of the entry whose memory is nearest. Imports torch.
    """
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for number in range(torch.cuda.device_count()):
        seen = torch.cuda.get_device_properties(number)
        words = seen.name.lower().replace(" ", "")
        gib = seen.total_memory / 2**30
        alike = [card for card in CARDS.values() if card.name.split("-")[0] in words] or list(CARDS.values())
        nearest = min(alike, key=lambda card: abs(card.usable_gib - gib))
        found.append(replace(nearest, name=seen.name, usable_gib=gib))
    return found
