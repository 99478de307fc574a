"""Checks of a bucket of results: each takes the facts and tells what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator

from tomoscale.bucket_conditions import CONDITIONAL
from tomoscale.cluster.facts import BucketFolder, Facts, Finding

SIGNED_SECONDS = 15 * 60
"""Clocks that are further off than that make signatures that servers of S3 refuse."""
RIGHTS = {"list": "s3:ListBucket", "write": "s3:PutObject", "read": "s3:GetObject", "delete": "s3:DeleteObject"}
_SECRET = ("the secret key does not belong to the access key", "copy AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY again")
_REGION = ("the bucket is in another region than {region}", "set AWS_REGION to that of the bucket")
_EXPIRED = ("the credentials have expired", "log in again, and set AWS_SESSION_TOKEN too")
_CREDENTIALS = {
    "InvalidAccessKeyId": ("the server does not know the access key", "check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL"),
    "SignatureDoesNotMatch": _SECRET,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "ExpiredToken": _EXPIRED,
    "InvalidToken": _EXPIRED,
}
_CLOCK = "RequestTimeTooSkewed"
_SET_CLOCK = "let the machine take its time from the network"


def server(facts: Facts) -> Iterator[Finding]:
    """The server of the bucket answers."""
    if facts.bucket is not None and facts.bucket.unreachable:
        yield Finding(
            "bucket server",
            "fault",
            f"does not answer: {facts.bucket.unreachable}",
            _place(facts.bucket),
            "check AWS_ENDPOINT_URL, the network and its proxy (HTTPS_PROXY, NO_PROXY)",
        )


def credentials(facts: Facts) -> Iterator[Finding]:
    """There are credentials, and the server knows them."""
    bucket = facts.bucket
    if bucket is None or bucket.unreachable:
        return
    for code in set(bucket.refusals.values()) & set(_CREDENTIALS):
        what, mend = _CREDENTIALS[code]
        what = what.format(region=bucket.region or "us-east-1")
        source = f"; credentials of {bucket.credentials}" if bucket.credentials else ""
        yield Finding("bucket credentials", "fault", f"{what} ({code})", _place(bucket) + source, mend)
    if not bucket.credentials and not set(bucket.refusals.values()) & set(_CREDENTIALS):
        yield Finding(
            "bucket credentials",
            "fault" if bucket.refusals or not bucket.of_amazon else "warning",
            "there are none in the environment or in ~/.aws/credentials",
            _place(bucket),
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, here and where workers run",
        )


def rights(facts: Facts) -> Iterator[Finding]:
    """The bucket is there, and objects may be listed, written, read and deleted."""
    bucket = facts.bucket
    if bucket is None:
        return
    for step, code in bucket.refusals.items():
        where = _place(bucket)
        if code == "NoSuchBucket":
            mend = "make it, or check its name and AWS_ENDPOINT_URL"
            yield Finding("bucket", "fault", f"there is no bucket {bucket.path.bucket.name}", where, mend)
        elif code == "AccessDenied":
            mend = f"ask its owner for {RIGHTS[step]}, or give a place that you may {step} in"
            yield Finding("bucket rights", "fault", f"no permission to {step} objects", where, mend)
        elif code not in (*_CREDENTIALS, _CLOCK):
            mend = "look again later; if it stays so, ask who runs the server"
            yield Finding("bucket", "fault", f"cannot {step} objects: {code}", where, mend)


def conditions(facts: Facts) -> Iterator[Finding]:
    """The server puts objects under conditions."""
    if facts.bucket is not None and facts.bucket.condition:
        yield Finding(
            "bucket conditions",
            "fault",
            f"the server does not keep {facts.bucket.condition}: two runs could write one output",
            _place(facts.bucket),
            CONDITIONAL,
        )


def clocks(facts: Facts) -> Iterator[Finding]:
    """Clocks are near enough to the server's for it to take what they sign."""
    if facts.bucket is None:
        return
    if _CLOCK in facts.bucket.refusals.values() and facts.here.clock_offset_s is None:
        what = f"the clock of this machine is too far from that of the object store ({_CLOCK})"
        yield Finding("bucket clock", "fault", what, facts.here.host, _SET_CLOCK)
    for machine in (facts.here, *(worker for worker in facts.workers if not worker.error)):
        offset = machine.clock_offset_s
        if offset is None or abs(offset) < SIGNED_SECONDS / 3:
            continue
        yield Finding(
            "bucket clock",
            # Less by what the way there and whole seconds may take.
            "fault" if abs(offset) > SIGNED_SECONDS - 15 else "warning",
            f"clock is {abs(offset) / 60:.0f} min {'ahead of' if offset > 0 else 'behind'} that of the object store, which refuses "
            f"requests from {SIGNED_SECONDS // 60} min on",
            f"{machine.name} on {machine.host}",
            _SET_CLOCK,
        )


def shared_bucket(facts: Facts) -> Iterator[Finding]:
    """Workers find what the client wrote."""
    for worker in facts.workers:
        if worker.sees_token is False and facts.bucket is not None:
            yield Finding(
                "shared bucket",
                "fault",
                f"does not find what this machine wrote into {facts.bucket.path}",
                f"{worker.name} on {worker.host}",
                "give workers the same AWS_ENDPOINT_URL and credentials, and the network to reach it: each process finds its own",
            )


def _place(bucket: BucketFolder) -> str:
    return f"{bucket.path} at {bucket.server}"
