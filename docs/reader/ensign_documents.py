"""Reads roles, statements, gates, plan files and join tokens, written from docs/formats.md alone: ensign_documents.py FLEET KEY,... FILE...
(fleet id and public keys in hexadecimal). Prints for each file, as a line of JSON, its kind, how many of the keys signed it, and what it
says (byte strings in hexadecimal); or why it refuses it and exits with 1."""
import base64, json, pathlib, re, sys
from ensign_reader import cbor, envelope, need, sha256, signers, SPKI

# A type is a function that refuses what does not fit, or a map of fields; a field that ends in `?` may be left out.
def uint(value): need(type(value) is int and 0 <= value < 1 << 64, f"{value!r}: not an unsigned integer")
def boolean(value): need(type(value) is bool, f"{value!r}: not a bool")
def text(value): need(type(value) is str, f"{value!r}: not text")
def raw(value): need(type(value) is bytes, f"{value!r}: not a byte string")
def extension(value): need(type(value) is dict and value, f"{value!r}: not a map")

def sized(length):
    def check(value): need(type(value) is bytes and len(value) == length, f"{value!r}: not {length} bytes")
    return check

def matching(pattern):
    def check(value): need(type(value) is str and re.fullmatch(pattern, value), f"{value!r}: not {pattern}")
    return check

def array(of, most=1 << 20):
    def check(value):
        need(type(value) is list and len(value) <= most, f"{value!r}: not an array of at most {most}")
        for item in value:
            fits(of, item)
    return check

def table(key, of, most=1 << 20):
    def check(value):
        need(type(value) is dict and len(value) <= most, f"{value!r}: not a map of at most {most}")
        for name, item in value.items():
            fits(key, name), fits(of, item)
    return check

def one_of(*names, **shapes):
    def check(value):
        if type(value) is dict and len(value) == 1:
            [(name, inner)] = value.items()
            need(name.replace("-", "_") in shapes, f"{name!r}: not one of {list(shapes)}")
            return fits(shapes[name.replace("-", "_")], inner)
        need(value in names, f"{value!r}: not one of {names}")
    return check

def fits(shape, value):
    if not isinstance(shape, dict):
        return shape(value)
    need(type(value) is dict, f"{value!r}: not a map")
    for name in value:
        need(name in shape or f"{name}?" in shape, f"{name!r}: not a field")
    for name, of in shape.items():
        plain = name.rstrip("?")
        need(plain in value or plain != name, f"{name!r} is missing")
        if plain in value:
            fits(of, value[plain])

digest, key, device, kid = sized(32), sized(32), sized(32), sized(32)
identifier, version = matching("[a-z0-9][a-z0-9._-]{0,63}"), matching("[0-9A-Za-z][0-9A-Za-z.+_-]{0,62}")
label, code = matching("[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"), matching("[a-z0-9-]+")

def role(value):
    fits({"keys": array(key), "threshold": uint}, value)
    need(len(set(value["keys"])) == len(value["keys"]) >= value["threshold"] >= 1, "a threshold that cannot be met, or a key twice")

file_ref = {"digest": digest, "length": uint}
listed = {"version": uint, "length": uint, "digest": digest}
header = {"format": uint, "version": uint, "issued": uint, "expires": uint}
said = {"format": uint, "issued": uint}
floor = {"plan_seq": uint, "counter": uint, "security": uint}
cohort = one_of(listed={"root": digest, "count": uint}, selector={"expr": text, "cumulative_bp": uint})
wave = {"cohort": cohort, "min_soak_s": uint, "gate": one_of("auto", "manual"), "evidence": one_of("dwell", receipts=uint)}
bound = one_of(count=uint, basis_points=uint)
stop = {"failed": bound, "dark": bound, "min_sample": uint, "quorum_bp": uint, "reach_s": uint, "dark_after_s?": uint,
        "on_breach": one_of("halt", "revert")}
member = {"wave": uint, "index": uint, "receipt_key": key, "path": array(digest, 32)}
product = {"name": matching(r"\*|[a-z0-9][a-z0-9._-]{0,63}"), "role": role, "components": array(text), "units": array(text),
           "kinds": array(text), "handlers?": array(identifier), "security_floor": uint, "lowest": uint, "network": boolean,
           "ext?": extension}
compatible = {"arch?": array(text), "hardware?": array(text), "min_agent?": version, "min_from?": uint}

# Kind → most bytes, fields.
KINDS = {
    "root": (64 << 10, header | {
        "fleet": sized(32), "name": text, "roles": dict.fromkeys(["root", "targets", "snapshot", "timestamp"], role),
        "scopes": array({"name": identifier, "select": text, "role": role}), "protected?": array(label),
        "policy": {"lab": boolean, "offline_without_time": boolean, "known_canaries": boolean, "first_wave_max?": uint,
                   "offline?": array(identifier), "timestamp_life_s?": uint},
        "controller": {"keys": array(kid), "api": array(digest), "addresses": array(text)},
        "floors": {"reset_epoch": uint, "targets_version": uint, "products?": table(identifier, floor)},
        "time_reset?": uint, "min_protocol": uint, "ext?": extension}),
    "targets": (1 << 20, header | {"products": array(product), "ext?": extension}),
    "snapshot": (1 << 20, header | {"targets": listed, "ext?": extension, "releases": array(
        {"product": identifier, "release": version, "counter": uint, "document": listed})}),
    "timestamp": (16 << 10, header | {"snapshot": listed, "ext?": extension}),
    "release": (64 << 10, header | {
        "product": identifier, "release": version, "counter": uint, "security_floor": uint, "manifest": file_ref,
        "compatible": compatible, "yanked?": text, "patch_index?": file_ref, "ext?": extension}),
    "plan": (64 << 10, said | {
        "product": identifier, "seq": uint, "cut_seed": sized(16), "waves": array(wave, 64), "not_before": uint, "expires": uint,
        "release": {"version": version, "counter": uint, "manifest": digest, "length": uint}, "windows?": array(text),
        "health?": {"window_s": uint, "deadline_s": uint}, "downgrade?": text, "offline?": digest, "emergency": boolean,
        "reverts?": {"plan": digest, "from": digest, "to": digest, "revert_for_s": uint, "failures": uint},
        "pace": {"prefetch": boolean, "priority": uint, "stop": stop, "max_parallel?": uint, "one_per?": label, "rate_per_h?": uint},
        "select": text, "exclude?": array(text), "reason?": text, "ext?": extension}),
    "cancel": (4096, said | {"plan": digest, "product": identifier, "reason": text}),
    "hold": (4096, said | {"device": device, "seq": uint, "held": boolean, "reason": text}),
    "promote": (4096, said | {"plan": digest, "wave": uint}),
    "grant": (4096, said | {"labels": table(label, label, 64), "label_seq": uint, "subject": one_of(
        device=device, token={"key": key, "uses": uint, "expires": uint, "approve": boolean})}),
    "binding": (4096, said | {"device": device, "key": key, "receipt_key": key, "token": key, "grant": digest, "name": text,
                              "claims?": table(text, text)}),
    "receipt": (4096, said | {"plan": digest, "release": digest, "device": device, "healthy_for_s": uint, "seq": uint,
                              "state": one_of("confirmed", failed={"code": code}, rolled_back={"code": code})}),
    "rotation": (4096, said | {"device": device, "old": key, "new": key, "receipt_key": key}),
    "lease": (4096, said | {"plan": digest, "device": device, "nonce": sized(32), "ttl_s": uint}),
    "time": (4096, {"format": uint, "fleet": sized(32), "device": device, "nonce": sized(32), "time": uint}),
}
GATE = {"format": uint, "plan": digest, "wave": uint, "promote?": raw,
        "receipts": array({"receipt": raw, "device": device, "member": member}, 64)}

PLAN_FILE = {"format": uint, "plan": raw, "chain": array(raw), "tokens": array(raw), "devices": array(
    {"wave": uint, "token": uint, "binding": raw, "grant?": raw})}

def document(data, kind, keys, fleet):
    most, fields = KINDS[kind]
    signed = envelope(data, kind, most)
    body = cbor(signed[1], kind)
    fits(fields, body)
    need(body["format"] == 1, f"{kind}: format {body['format']}")
    if kind == "binding":
        need(body["device"] == sha256(SPKI + body["key"]), "a binding for another key than the device's")
    return {"kind": kind, "signatures": signers(signed, keys, fleet), "body": body}

def tree_root(leaf, index, count, path):
    path = list(path)
    while count > 1:
        if index % 2 or index + 1 < count:
            need(path, "a path that is too short")
            pair = [path.pop(0), leaf] if index % 2 else [leaf, path.pop(0)]
            leaf = sha256(b"\1" + b"".join(pair))
        index, count = index // 2, (count + 1) // 2
    need(not path, "a path that is too long")
    return leaf

def gate(data, keys, fleet, plans):
    body = cbor(data, "gate")
    fits(GATE, body)
    need(body["format"] == 1 and len(data) <= 64 << 10, "gate: another format, or too long")
    for shown in body["receipts"]:
        place = shown["member"]
        receipt = document(shown["receipt"], "receipt", [place["receipt_key"]], fleet)
        need(receipt["signatures"] == 1 and receipt["body"]["device"] == shown["device"], "a receipt of somebody else")
        if body["plan"] in plans:
            cohort = plans[body["plan"]]["waves"][place["wave"] - 1]["cohort"]["listed"]
            leaf = sha256(b"\0" + place["wave"].to_bytes(4, "big") + shown["device"] + place["receipt_key"])
            need(place["index"] < cohort["count"], "a place outside the wave")
            need(tree_root(leaf, place["index"], cohort["count"], place["path"]) == cohort["root"], "a path to another root")
    promoted = document(body["promote"], "promote", keys, fleet) if "promote" in body else None
    return {"kind": "gate", "signatures": promoted["signatures"] if promoted else 0, "body": body}

def tree(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"")
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:]))

def plan_file(data, keys, fleet):
    magic = b"ENSIGNPL\r\n\x1a\n"
    need(data.startswith(magic) and len(data) <= 256 << 20, "no plan file")
    body = cbor(data[len(magic):], "plan file")
    fits(PLAN_FILE, body)
    plan = document(body["plan"], "plan", keys, fleet)
    waves, lists = plan["body"]["waves"], {}
    for place in body["devices"]:
        need(1 <= place["wave"] <= len(waves) and place["token"] < len(body["tokens"]), "a place that is not there")
        bound = document(place["binding"], "binding", [], fleet)["body"]
        own = [bound[name] for name in ("token", "key", "receipt_key")]
        need(document(place["binding"], "binding", own, fleet)["signatures"] == 3, "a binding that is not signed")
        grant = body["tokens"][place["token"]]
        need(bound["grant"] == sha256(envelope(grant, "grant", 4096)[1]), "a binding for another grant")
        document(grant, "grant", keys, fleet)
        if "grant" in place:
            need(document(place["grant"], "grant", keys, fleet)["signatures"], "a grant that nobody signed")
        lists.setdefault(place["wave"], {})[bound["device"]] = bound["receipt_key"]
    for number, wave in enumerate(waves, 1):
        leaves = [sha256(b"\0" + number.to_bytes(4, "big") + device + receipt_key)
                  for device, receipt_key in sorted(lists.get(number, {}).items())]
        need(wave["cohort"]["listed"] == {"root": tree(leaves), "count": len(leaves)}, f"wave {number} has other devices")
    return {"kind": "plan-file", "signatures": plan["signatures"], "body": plan["body"]}

def token(line):
    line = line.strip()
    data = base64.urlsafe_b64decode(line + b"=" * (-len(line) % 4))
    need(len(line) <= 400 and data[0] == 1 and data[-4:] == sha256(data[:-4])[:4], "not a token of format 1, or not whole")
    addresses, at = [], 2
    for _ in range(data[1]):
        addresses.append(data[at + 1:at + 1 + data[at]].decode())
        at += 1 + data[at]
    need(addresses and len(data) == at + 4 * 32 + 4, "a token of another shape")
    fleet, root, controller, _seed = (data[at + n * 32:at + n * 32 + 32] for n in range(4))
    return {"kind": "token", "body": {"addresses": addresses, "fleet": fleet, "root": root, "controller": controller}}

def main(fleet, keys, *files):
    fleet, keys, plans = bytes.fromhex(fleet), [bytes.fromhex(key) for key in keys.split(",")], {}
    for path in map(pathlib.Path, files):
        data, kind = path.read_bytes(), path.name.split("-v")[0]
        if kind == "token":
            found = token(data)
        elif kind == "gate":
            found = gate(data, keys, fleet, plans)
        elif kind == "plan-file":
            found = plan_file(data, keys, fleet)
        else:
            found = document(data, kind, keys, fleet)
        if kind == "plan":
            plans[sha256(envelope(data, "plan")[1])] = found["body"]
        print(json.dumps(found, default=bytes.hex))

if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(f"refused: {error!r}")
