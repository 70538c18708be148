#!/usr/bin/env python3
"""Checks what a user data vault hands out, without the vault and without its code.

    udv_check.py certificate FILE... [--log-key KEY]      erasure certificates
    udv_check.py consistency OLD NEW PROOF --log-key KEY  two checkpoints of one log, and the proof between them

Written from docs/erasure.md and docs/audit.md alone; needs Python 3.9 and the package `cryptography`. Exit code 0 if it
holds, 8 if it does not.
"""
import argparse
import base64
import hashlib
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

STATEMENT = (
    "Evidence, not proof, of deletion: the operator of this vault signed, in an append-only log, that the only keys to "
    "this data were destroyed as told below. It can not show that no copy was made while the data was in use, nor that "
    "the software did what it says."
)
KEYS = ["certificate", "statement", "vault", "erasure", "subject", "request", "levels", "checkpoint", "log_key"]


class Refused(Exception):
    """Why something does not hold."""


def need(holds, why):
    if not holds:
        raise Refused(why)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def unhex(text, length):
    raw = bytes.fromhex(text)
    need(len(raw) == length and raw.hex() == text, "hexadecimal digits are not as they should be")
    return raw


def unbase64(text):
    raw = base64.b64decode(text, validate=True)
    need(base64.b64encode(raw).decode() == text, "base64 is not canonical")
    return raw


def read_key(vkey):
    """The key's name, its id and the key of a verifier key."""
    name, key_id, encoded = vkey.split("+", 2)
    raw = unbase64(encoded)
    need(len(raw) == 33 and raw[0] == 1, "the log key is not an Ed25519 key")
    need(sha256(name.encode(), b"\n", raw)[:4] == unhex(key_id, 4), "the log key's id is not its own")
    return name, raw, Ed25519PublicKey.from_public_bytes(raw[1:])


def open_checkpoint(note, vkey):
    """The size and root of the log, if the key signed them and nobody else did."""
    name, raw, key = read_key(vkey)
    text, _, signatures = note.rpartition("\n\n")
    need(signatures.endswith("\n") and signatures.count("\n") == 1, "the checkpoint has not just one signature")
    dash, signer, encoded = signatures[:-1].split(" ")
    signature = unbase64(encoded)
    own = (dash, signer, signature[:4]) == ("—", name, sha256(name.encode(), b"\n", raw)[:4])
    need(own, "the checkpoint is signed by another key")
    try:
        key.verify(signature[4:], (text + "\n").encode())
    except InvalidSignature:
        raise Refused("the checkpoint's signature does not hold") from None
    origin, size, root = text.split("\n")
    need(origin == name and str(int(size)) == size, "the checkpoint is malformed")
    return origin, int(size), unbase64(root)


def node(left, right):  # proofs are checked as RFC 9162 says
    return sha256(b"\1", left, right)


def check_inclusion(root, size, index, proof, hashed):
    need(type(index) is int and 0 <= index < size, "an entry lies behind the checkpoint")
    at, last = index, size - 1
    for other in proof:
        need(last > 0, "an inclusion proof is too long")
        if at % 2 == 0 and at != last:
            hashed = node(hashed, other)
        else:
            hashed = node(other, hashed)
            while at % 2 == 0 and at != 0:
                at, last = at >> 1, last >> 1
        at, last = at >> 1, last >> 1
    need(last == 0 and hashed == root, "an entry is not in the log that the checkpoint signs")


def check_consistency(old_size, old_root, new_size, new_root, proof):
    need(0 < old_size <= new_size, "the old checkpoint is not the smaller one")
    if old_size == new_size:
        need(not proof and old_root == new_root, "two checkpoints of one size have different roots")
        return
    proof = [old_root, *proof] if old_size & (old_size - 1) == 0 else proof
    need(proof, "the consistency proof is empty")
    at, last = old_size - 1, new_size - 1
    while at % 2 == 1:
        at, last = at >> 1, last >> 1
    first = second = proof[0]
    for other in proof[1:]:
        need(last > 0, "the consistency proof is too long")
        if at % 2 == 1 or at == last:
            first, second = node(other, first), node(other, second)
            while at % 2 == 0 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            second = node(second, other)
        at, last = at >> 1, last >> 1
    need(last == 0 and first == old_root and second == new_root, "the new log does not go on from the old one")


def commitment(label, salt, *parts):
    return sha256(label, unhex(salt, 16), *(len(part).to_bytes(4, "big") + part for part in parts)).hex()


def logged(evidence, what, erasure, size, root):
    """The entry of a piece of evidence, if it is in the log and about this erasure."""
    need(list(evidence) == ["index", "entry", "proof"], "evidence has other parts than it should")
    raw = evidence["entry"].encode()
    check_inclusion(root, size, evidence["index"], [unhex(h, 32) for h in evidence["proof"]], sha256(b"\0", raw))
    entry = json.loads(raw)
    need((entry["what"], entry["outcome"], entry.get("erasure")) == (what, "done", erasure), "an entry is of something else")
    return entry


def check_certificate(raw, pinned):
    found = json.loads(raw)
    canonical = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    need(canonical.encode() == raw, "the bytes are not canonical")
    need(list(found) == [key for key in KEYS if key in found], "the parts are not in their order")
    need(found["certificate"] == "udv-erasure-1" and found["statement"] == STATEMENT, "the version is not known here")
    need(pinned in (None, found["log_key"]), "it is signed by another key than the given one")
    erasure = unhex(found["erasure"], 16)
    origin, size, root = open_checkpoint(found["checkpoint"], found["log_key"])
    need(origin == "udv/" + found["vault"], "the log is another vault's")
    subject, request, last = found.get("subject"), found.get("request"), -1
    need(subject or request, "it is about nothing")
    kinds = [(key, list if key == "levels" else dict) for key in ("subject", "request", "levels") if key in found]
    need(all(type(found[key]) is kind for key, kind in kinds), "a part is not of its kind")
    if subject:
        need(list(subject) == ["id", "salt", "evidence"], "the subject has other parts than it should")
        shred = logged(subject["evidence"], "shredded", erasure.hex(), size, root)["shred"]
        own = commitment(b"uv1/certificate/subject", subject["salt"], erasure, subject["id"].encode())
        need(own == shred["commitment"], "the entry is not about this subject")
        print("subject %s: final (F1) since %s" % (json.dumps(subject["id"]), shred["f1_at"]))
    if request:
        parts = [key for key in ("reason", "reference", "salt", "evidence") if key in request]
        need(list(request) == parts, "the request has other parts than it should")
        end = logged(request["evidence"], "erasure_level", erasure.hex(), size, root)
        need(request.get("reference") != "", "an empty reference is left out")
        parts = (erasure, request["reason"].encode(), request.get("reference", "").encode())
        own = commitment(b"uv1/certificate/request", request["salt"], *parts)
        need(own == end["request"]["commitment"] and end["level"] == "F1", "the entry is not about this request")
        print("request: %s of %s subjects final since %s" % (end["request"]["final"], end["request"]["total"], end["at"]))
    for evidence in found["levels"]:
        reached = logged(evidence, "erasure_level", erasure.hex(), size, root)
        need(reached["level"] in ("F2", "F3"), "an entry tells no level beyond F1")
        need(evidence["index"] > last, "the levels are not in the order of the log")
        last = evidence["index"]
        print("%s since %s" % (reached["level"], reached["at"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command, files in (("certificate", ["files"]), ("consistency", ["old", "new", "proof"])):
        taken = commands.add_parser(command)
        for name in files:
            taken.add_argument(name, type=pathlib.Path, nargs="+" if name == "files" else None)
        taken.add_argument("--log-key", required=command == "consistency")
    args = parser.parse_args()
    refused = 0
    for file in getattr(args, "files", [None]):
        try:
            if file:
                check_certificate(file.read_bytes(), args.log_key)
            else:
                heads = [open_checkpoint(note.read_text("utf-8"), args.log_key)[1:] for note in (args.old, args.new)]
                proof = [unhex(text, 32) for text in json.loads(args.proof.read_bytes())["proof"]]
                check_consistency(*heads[0], *heads[1], proof)
            print("it holds" if args.log_key else "it holds; key not pinned")
        except (Refused, ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
            print("refused: %s: %s" % (file or args.new, why), file=sys.stderr)
            refused += 1
    return 8 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
