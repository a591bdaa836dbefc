"""The inverse question: what so much money or time buys, and with which engine on how many devices."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.config import ConfigError
from bench.plan.recommend import HOUR, SAME, Option, simplicity


@dataclass(frozen=True)
class Budget:
    """Limits; None: none. Money is in the price's currency."""

    money: float | None = None
    hours: float | None = None


@dataclass(frozen=True)
class Bought:
    """What a budget buys with one option. `limit`: what runs out first, money or time."""

    option: Option
    hours: float
    cost: float | None
    samples: float
    limit: str


def budget(text: str) -> Budget:
    """`$500, 24 h`, `24h`, `500 EUR, 2 days`: money, time or both. Raises ConfigError for anything else."""
    money = hours = None
    for part in (each.strip() for each in text.split(",") if each.strip()):
        if (
            found := re.fullmatch(r"([\d_.]+)\s*(h|hours?|d|days?|min|minutes?)", part, re.IGNORECASE)
        ) and hours is None:
            unit = found[2].lower()
            hours = _number(found[1], text) * (24 if unit[0] == "d" else 1 / 60 if unit[0] == "m" else 1)
        elif (
            found := re.fullmatch(r"[$€£]?\s*([\d_.]+)\s*(USD|EUR|GBP|\$|€|£)?", part, re.IGNORECASE)
        ) and money is None:
            money = _number(found[1], text)
        else:
            raise ConfigError(
                f"--budget {text!r}: {part!r} is neither money nor time; type '$500, 24 h', '$500' or '24 h'"
            )
    if money is None and hours is None:
        raise ConfigError("--budget is empty; type '$500, 24 h', '$500' or '24 h'")
    return Budget(money, hours)


def buys(options: Sequence[Option], limits: Budget, price_per_hour: float | None) -> Bought | None:
    """Of all options, whatever their ranks, the one that takes most samples within the limits, and of those within SAME of it the
    smallest and simplest; None where nothing fits.

    Raises ConfigError for money without a price.
    """
    if limits.money is not None and (price_per_hour is None or not price_per_hour > 0):
        raise ConfigError("--budget in money needs what one device costs an hour: --price-per-hour 2.5")
    found = [_bought(option, limits, price_per_hour) for option in options if option.fits]
    most = max((each.samples for each in found), default=0.0)
    near = [each for each in found if each.samples >= most * (1 - SAME)]
    return min(near, key=lambda each: (each.option.time.ranks, simplicity(each.option.time.engine)), default=None)


def _bought(option: Option, limits: Budget, price: float | None) -> Bought:
    rate = None if price is None else price * option.time.ranks  # an hour
    by_money = math.inf if limits.money is None or rate is None else limits.money / rate
    by_time = math.inf if limits.hours is None else limits.hours
    hours = min(by_money, by_time)
    steps = math.floor(hours * HOUR / option.time.step_s)
    return Bought(
        option, hours, None if rate is None else hours * rate, float(steps * option.time.samples),
        "money" if by_money < by_time else "time",
    )  # fmt: skip


def said(bought: Bought | None, limits: Budget) -> str:
    """The answer to a budget, in a sentence."""
    asked = " and ".join(
        ([] if limits.money is None else [f"{limits.money:,.0f}"])
        + ([] if limits.hours is None else [f"{limits.hours:g} h"])
    )
    if bought is None:
        return f"for {asked}: nothing fits the devices' memory"
    time = bought.option.time
    paid = "" if bought.cost is None else f", {bought.cost:,.0f}"
    return (
        f"for {asked}: {time.engine} on {time.ranks} ranks takes {bought.samples:,.0f} samples in {bought.hours:.1f} h{paid}; "
        f"{bought.limit} runs out first (95 in 100: {bought.samples * time.step_s / time.high:,.0f} to "
        f"{bought.samples * time.step_s / time.low:,.0f})"
    )


def _number(text: str, whole: str) -> float:
    try:
        value = float(text.replace("_", ""))
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ConfigError(f"--budget {whole!r}: {text!r} must be a number above 0")
    return value
