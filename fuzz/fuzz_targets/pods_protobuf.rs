//! Streaming parser of a PodList page in protocol buffers: a reader in memory finds the same pods, and the split of the bytes has
//! no effect.

#![no_main]

use std::io::{BufReader, Read};

use img_classification_fuzz::kube::{Pod, protobuf};
use img_classification_fuzz::{BrokenConnection, OneByOne};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = read(input);
    assert_eq!(whole, read(OneByOne(input)), "byte by byte the result differs");
    assert_eq!(read(input.chain(BrokenConnection)), None, "a broken connection gave no error");
    assert_eq!(whole, oracle(input), "the reader in memory finds another list");
});

/// Returns the pods and the token of the next page, or `None` if the page is rejected.
fn read(from: impl Read) -> Option<(Vec<Pod>, String)> {
    let mut pods = Vec::new();
    // A buffer smaller than most texts, so that they cross its end.
    protobuf::read_pod_list(BufReader::with_capacity(5, from), &mut pods).ok().map(|page| (pods, page.next))
}

/// Returns the fields of a message by number, with the content of length-delimited ones, or `None` if the message is malformed.
fn fields(mut from: &[u8]) -> Option<Vec<(u64, Option<&[u8]>)>> {
    let mut found = Vec::new();
    while !from.is_empty() {
        let tag = varint(&mut from)?;
        let length = match tag & 7 {
            0 => {
                varint(&mut from)?;
                found.push((tag >> 3, None));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut from)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let content = from.get(..length)?;
        from = &from[length..];
        found.push((tag >> 3, (tag & 7 == 2).then_some(content)));
    }
    Some(found)
}

fn varint(from: &mut &[u8]) -> Option<u64> {
    let end = from.iter().position(|byte| *byte < 0x80).filter(|end| *end < 10)?;
    let (bytes, rest) = from.split_at(end + 1);
    *from = rest;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)))
}

/// Returns the last text with that number; the outer `None` stands for a malformed message or text.
fn text(from: &[u8], number: u64) -> Option<Option<String>> {
    let texts = fields(from)?.into_iter().filter(|(found, content)| *found == number && content.is_some());
    let texts: Option<Vec<String>> = texts
        .map(|(_, content)| {
            content.filter(|text| text.len() <= 65_536).and_then(|text| String::from_utf8(text.into()).ok())
        })
        .collect();
    texts.map(|texts| texts.into_iter().last())
}

fn oracle(input: &[u8]) -> Option<(Vec<Pod>, String)> {
    let (mut kind, mut result) = (String::new(), None);
    for (number, content) in fields(input.strip_prefix(b"k8s\0")?)? {
        match (number, content) {
            (1, Some(meta)) => kind = text(meta, 2)?.unwrap_or_default(),
            (2, Some(list)) if kind == "PodList" && result.is_none() => result = Some(pod_list(list)?),
            (2, Some(_)) => return None,
            _ => {}
        }
    }
    result
}

fn pod_list(list: &[u8]) -> Option<(Vec<Pod>, String)> {
    let (mut pods, mut next) = (Vec::new(), None);
    for (number, content) in fields(list)? {
        match (number, content) {
            (1, Some(metadata)) => next = text(metadata, 3)?,
            (2, Some(item)) => pods.push(pod(item)?),
            _ => {}
        }
    }
    Some((pods, next.unwrap_or_default()))
}

fn pod(item: &[u8]) -> Option<Pod> {
    let (mut metadata, mut spec, mut status) = ((None, None), None, (None, None));
    for (number, content) in fields(item)? {
        match (number, content) {
            (1, Some(content)) => metadata = (text(content, 1)?, text(content, 3)?),
            (2, Some(content)) => spec = text(content, 10)?,
            (3, Some(content)) => status = (text(content, 1)?, text(content, 6)?),
            _ => {}
        }
    }
    let present = |text: Option<String>| text.filter(|text| !text.is_empty());
    Some(Pod {
        name: metadata.0?,
        namespace: metadata.1.unwrap_or_default(),
        node: present(spec),
        phase: status.0.unwrap_or_default(),
        ip: present(status.1),
        version: String::new(),
    })
}
