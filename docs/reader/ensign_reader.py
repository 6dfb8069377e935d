"""Reads and verifies an Ensign bundle, written from docs/formats.md alone: ensign_reader.py FILE FLEET THRESHOLD KEY...
(fleet id and public keys in hexadecimal). Prints what the file holds as JSON, or why it refuses it and exits with 1."""
import contextlib, hashlib, io, json, re, struct, sys
import cbor2, zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SPKI = bytes.fromhex("302a300506032b6570032100")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MIB = 1 << 20
sha256 = lambda data: hashlib.sha256(data).digest()

def need(condition, why):
    if not condition:
        raise ValueError(why)

def sequence(data, what):
    stream, items = io.BytesIO(data), []
    while stream.tell() < len(data):
        items.append(cbor2.load(stream))
    need(b"".join(cbor2.dumps(item, canonical=True) for item in items) == data, f"{what}: not deterministic CBOR")
    return items

def cbor(data, what):
    [item] = sequence(data, what)
    return item

def envelope(data, kind, limit=MIB):
    sign = cbor(data, kind)
    need(len(data) <= limit and sign.tag == 98 and len(sign.value) == 4, f"{kind}: not a COSE_Sign")
    protected, unprotected, payload, signatures = sign.value
    need(cbor(protected, kind) == {3: f"application/vnd.ensign.{kind}+cbor"}, f"{kind}: another kind of document")
    need(unprotected == {} and len(signatures) <= 64, f"{kind}: not of the fixed shape")
    kids = [cbor(header, kind)[4] for header, *_ in signatures]
    for header, unprotected, signature in signatures:
        fields = cbor(header, kind)
        need(set(fields) == {1, 4} and fields[1] == -19 and len(fields[4]) == 32, f"{kind}: not an Ed25519 signature")
        need(unprotected == {} and len(signature) == 64, f"{kind}: not of the fixed shape")
    need(all(a < b for a, b in zip(kids, kids[1:])), f"{kind}: signatures out of order")
    return protected, payload, [(kid, header, signature) for kid, (header, _, signature) in zip(kids, signatures)]

def signers(document, keys, fleet):
    protected, payload, signatures = document
    known, valid = {sha256(SPKI + key): key for key in keys}, 0
    for kid, header, signature in signatures:
        message = cbor2.dumps(["Signature", protected, header, b"ensign/v1" + fleet, payload], canonical=True)
        with contextlib.suppress(KeyError, InvalidSignature):
            Ed25519PublicKey.from_public_bytes(known[kid]).verify(signature, message)
            valid += 1
    return valid

def read_entries(component, totals):
    entries, last, directories = sequence(component["entries"], "entries"), [], {""}
    need(len(entries) <= MIB, "too many entries")
    for kind, path, *rest in entries:
        names, size = path.split("/"), rest[1] if kind == 0 else 0
        need(len(path.encode()) <= 1024 and len(names) <= 33 and not CONTROL.search(path), f"path {path!r}")
        need(all(name not in ("", ".", "..") and len(name.encode()) <= 255 for name in names), f"path {path!r}")
        need(last < names and "/".join(names[:-1]) in directories, f"{path!r}: order, or no directory")
        if kind == 0:
            mode, size, digest = rest
            need(mode in (0o644, 0o755) and len(digest) == 32 and (size or digest == sha256(b"")), f"{path!r}: no file")
        elif kind == 1:
            need(rest == [0o755], f"{path!r}: no directory")
            directories.add(path)
        else:
            parts = [part for part in rest[0].split("/") if part not in ("", ".")]
            up = next((n for n, part in enumerate(parts) if part != ".."), len(parts))
            need(kind == 2 and len(rest) == 1 and 0 < len(rest[0].encode()) <= 1024, f"{path!r}: no symlink")
            need(rest[0][0] != "/" and up < len(names) and ".." not in parts[up:], f"{path!r} leaves the component")
            need(not CONTROL.search(rest[0]) and all(len(part.encode()) <= 255 for part in parts), f"{path!r}: target")
        last, room = names, -(-size // 4096) * 4096 if kind == 0 else 4096
        for name, amount in ("bytes", size), ("inodes", 1), ("peak_staging", room):
            totals[name] += amount
    return entries

def plain_block(kind, length, plain_digest, stored_digest, stored):
    need(0 < length <= MIB and sha256(stored) == stored_digest, "a stored block does not have its digest")
    if kind == 1:
        need(stored[:4] == b"\x28\xb5\x2f\xfd" and stored[4] & 0x3F == 0x20, "not a zstd frame of the fixed shape")
        need(zstandard.get_frame_parameters(stored).content_size == length > len(stored), "not the listed content size")
        decoder = zstandard.ZstdDecompressor(max_window_size=MIB).decompressobj()
        plain = decoder.decompress(stored)
        need(decoder.eof and not decoder.unused_data, "bytes after the frame")
    else:
        need(kind == 0 and stored_digest == plain_digest or kind == 2 and not stored, "a block of another kind")
        plain = stored if kind == 0 else bytes(length)
    need(len(plain) == length and sha256(plain) == plain_digest, "a plain block does not have its digest")
    return plain

def check_blocks(entries, table, take, total):
    stream, current = {}, None
    for index, entry in enumerate(entries):
        if entry[0] == 0 and entry[3] > 0:
            need(entries[stream.setdefault(entry[4], index)][3] == entry[3], "two sizes for one digest")
    waiting = set(stream.values())
    for kind, length, stored, plain_digest, stored_digest, pieces in table:
        plain, at, total = plain_block(kind, length, plain_digest, stored_digest, take(stored)), 0, total - stored
        for index, offset, length in pieces:
            if current is None:
                current, seen, digest = index, 0, hashlib.sha256()
            need(index in waiting and (index, offset) == (current, seen), "a piece that is not the next of the stream")
            need(0 < length <= min(len(plain) - at, entries[index][3] - seen), "a piece that is too long")
            digest.update(plain[at:at + length])
            seen, at = seen + length, at + length
            if seen == entries[index][3]:
                need(digest.digest() == entries[index][4], f"{entries[index][1]!r} does not have its digest")
                waiting.discard(index)
                current = None
        need(at == len(plain), "pieces that do not add up")
    need(not waiting and total == 0, "files or blocks are missing")

def read_release(lengths, take, keys, threshold, fleet):
    document = envelope(take(lengths["document"]), "release", 1 << 16)
    release, raw = cbor(document[1], "release"), take(lengths["manifest"])
    need(release["format"] == 1 and release["manifest"] == {"digest": sha256(raw), "length": len(raw)}, "manifest")
    manifest, totals = cbor(raw, "manifest"), {"bytes": 0, "inodes": 0, "peak_staging": 0}
    both = {name: name for name in ("format", "product", "security_floor", "compatible")}
    both |= {"version": "release", "release_counter": "counter"}
    need(all(manifest[here] == release[there] for here, there in both.items()), "manifest and document disagree")
    components, tables = manifest["components"], [take(length) for length in lengths["tables"]]
    for component, table, total in zip(components, tables, lengths["blocks"], strict=True):
        need(component["blocks"] == {"digest": sha256(table), "length": len(table)}, "another block table")
        check_blocks(read_entries(component, totals), sequence(table, "block table"), take, total)
    need(manifest["totals"] == totals, "totals that do not add up")
    need((valid := signers(document, keys, fleet)) >= threshold, f"{valid} valid signatures, {threshold} are needed")
    return totals | {"product": release["product"], "version": release["release"], "signatures": valid}

def read_bundle(file, keys, threshold, fleet):
    def take(length):
        data = file.read(length)
        need(len(data) == length, "the file ends too early")
        return data
    magic, number, length = struct.unpack(">10sHI", take(16))
    need(magic == b"ENSIGN\r\n\x1a\n" and number == 1 and length <= 1 << 16, "not a bundle of format 1")
    header = cbor(take(length), "header")
    need(set(header) <= {"chain", "releases"} and header["releases"] and header.get("chain", True), "not a header")
    need(all(set(r) == {"document", "manifest", "tables", "blocks"} for r in header["releases"]), "not a header")
    for kind, size in header.get("chain", []):
        cbor(take(size), kind) if kind == "member" else envelope(take(size), kind)
    found = [read_release(lengths, take, keys, threshold, fleet) for lengths in header["releases"]]
    need(file.read(1) == b"", "bytes after the end")
    return found

if __name__ == "__main__":
    try:
        path, fleet, threshold, *keys = sys.argv[1:]
        with open(path, "rb") as file:
            print(json.dumps(read_bundle(file, [bytes.fromhex(key) for key in keys], int(threshold), bytes.fromhex(fleet))))
    except Exception as error:
        sys.exit(f"refused: {error!r}")
