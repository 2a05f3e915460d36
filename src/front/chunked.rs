//! The chunked transfer coding, RFC 9112, section 7.1. Pure, no I/O.

use crate::front::error::RequestError;
use crate::front::limits::MAX_BODY;

/// Longest line, in bytes: of a chunk's size with its extensions, which are ignored, or of a trailer field.
const MAX_LINE: usize = 256;

/// Longest chunked request body, in bytes as sent: a body of [`MAX_BODY`] in chunks of a few bytes, with trailers.
const MAX_ENCODED: usize = 8 * 1024;

/// Most trailer fields, which are checked and dropped.
const MAX_TRAILERS: usize = 16;

/// The reason why the bytes are not a chunk.
#[derive(Debug, PartialEq, Eq)]
pub enum ChunkError {
    Malformed,
    TooLarge,
}

/// Returns the data of the first chunk of `input` and the bytes that the chunk takes; `None` if it is incomplete. Empty data means
/// the last chunk, whose trailer section follows.
///
/// # Errors
/// The input does not start with a chunk, or the chunk has more than `max` bytes.
pub fn first_chunk(input: &[u8], max: usize) -> Result<Option<(&[u8], usize)>, ChunkError> {
    let Some(line) = line(input)? else { return Ok(None) };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Anything but an extension after the size could be read as another size.
    if digits == 0 || !matches!(line[digits..].trim_ascii_start().first(), None | Some(b';')) {
        return Err(ChunkError::Malformed);
    }
    let size = std::str::from_utf8(&line[..digits]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
    let size = size.filter(|size| *size <= max).ok_or(ChunkError::TooLarge)?;
    let start = line.len() + 2;
    if size == 0 {
        return Ok(Some((&[], start)));
    }
    let end = start + size;
    match input.get(end..end + 2) {
        Some(b"\r\n") => Ok(Some((&input[start..end], end + 2))),
        Some(_) => Err(ChunkError::Malformed),
        None => Ok(None),
    }
}

/// Returns the line up to CRLF; `None` if its end has not arrived. A CR or LF alone is refused, as is any other control character.
fn line(input: &[u8]) -> Result<Option<&[u8]>, ChunkError> {
    for (at, byte) in input.iter().enumerate().take(MAX_LINE) {
        match byte {
            b'\r' => {
                return match input.get(at + 1) {
                    Some(b'\n') => Ok(Some(&input[..at])),
                    Some(_) => Err(ChunkError::Malformed),
                    None => Ok(None),
                };
            }
            b'\t' => {}
            byte if byte.is_ascii_control() => return Err(ChunkError::Malformed),
            _ => {}
        }
    }
    if input.len() < MAX_LINE { Ok(None) } else { Err(ChunkError::Malformed) }
}

/// Decodes a whole chunked request body: its data and its length as sent; `None` if it is incomplete.
///
/// # Errors
/// 400 for a malformed body, 413 for one that is too long.
pub fn decode(input: &[u8]) -> Result<Option<(Vec<u8>, usize)>, RequestError> {
    let refused = |error| match error {
        ChunkError::Malformed => RequestError::Malformed("its chunked body is not well-formed"),
        ChunkError::TooLarge => RequestError::BodyTooLarge,
    };
    let (mut body, mut used) = (Vec::new(), 0);
    let incomplete = if input.len() < MAX_ENCODED { Ok(None) } else { Err(RequestError::BodyTooLarge) };
    loop {
        let Some((data, length)) = first_chunk(&input[used..], MAX_BODY).map_err(refused)? else { return incomplete };
        used += length;
        if data.is_empty() {
            break;
        }
        body.extend_from_slice(data);
        if body.len() > MAX_BODY {
            return Err(RequestError::BodyTooLarge);
        }
    }
    match trailers(&input[used..]).map_err(refused)? {
        Some(length) => Ok(Some((body, used + length))),
        None => incomplete,
    }
}

/// Returns the length of the trailer section with its empty line; `None` if it is incomplete. Its fields are checked and dropped.
fn trailers(input: &[u8]) -> Result<Option<usize>, ChunkError> {
    let mut length = 0;
    loop {
        let Some(line) = line(&input[length..])? else { return Ok(None) };
        length += line.len() + 2;
        if line.is_empty() {
            break;
        }
    }
    match httparse::parse_headers(&input[..length], &mut [httparse::EMPTY_HEADER; MAX_TRAILERS]) {
        Ok(httparse::Status::Complete(_)) => Ok(Some(length)),
        _ => Err(ChunkError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(body: &[u8]) -> Option<u16> {
        decode(body).err().map(|error| error.to_status().0)
    }

    #[test]
    fn a_body_is_decoded_once_it_is_complete() {
        for text in ["3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "03 ;a=b\r\nabc\r\n2\r\nde\r\n00\r\nX: y\r\n\r\n"] {
            for end in 0..text.len() {
                assert_eq!(decode(&text.as_bytes()[..end]), Ok(None), "{:?}", &text[..end]);
            }
            let longer = format!("{text}POST / HTTP/1.1\r\n\r\n{{\n}}");
            assert_eq!(decode(longer.as_bytes()), Ok(Some((b"abcde".to_vec(), text.len()))));
        }
    }

    #[test]
    fn a_body_with_two_readings_is_refused() {
        for bad in [
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nab\r\n0\r\n\r\n",
            "+3\r\nabc\r\n0\r\n\r\n",
            "-3\r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            " 3\r\nabc\r\n0\r\n\r\n",
            "\r\n3\r\nabc\r\n0\r\n\r\n",
            "3 4\r\nabc\r\n0\r\n\r\n",
            "3\r\rabc\r\n0\r\n\r\n",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
            "g\r\n",
            "3\r\nabc\r\n0\r\nX y\r\n\r\n",
            "3\r\nabc\r\n0\r\nX: y\n\r\n",
            "3\r\nabc\r\n0\r\n\n",
        ] {
            assert_eq!(status(bad.as_bytes()), Some(400), "{bad:?}");
        }
    }

    #[test]
    fn a_long_body_is_refused_however_it_is_sent() {
        assert_eq!(status(b"fffffffffffffffff3\r\n"), Some(413));
        assert_eq!(status(b"20000\r\n"), Some(413));
        let whole = format!("{:x}\r\n{}\r\n0\r\n\r\n", MAX_BODY + 1, "a".repeat(MAX_BODY + 1));
        assert_eq!(status(whole.as_bytes()), Some(413));
        let fits = format!("{:x}\r\n{}\r\n0\r\n\r\n", MAX_BODY, "a".repeat(MAX_BODY));
        assert!(matches!(decode(fits.as_bytes()), Ok(Some((body, _))) if body.len() == MAX_BODY));
        let slow = "1;extension=of-some-length\r\na\r\n".repeat(MAX_BODY / 2);
        assert_eq!(status(&slow.as_bytes()[..MAX_ENCODED]), Some(413));
    }
}
