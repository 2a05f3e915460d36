//! A chunked request body: a decoded one stays the same with other bytes behind it, and is never complete before its end.

#![no_main]

use img_classification_fuzz::front::chunked::decode;
use img_classification_fuzz::front::request::BODY_LIMIT;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match decode(input) {
        Ok(Some((body, length))) => {
            assert!(body.len() <= BODY_LIMIT && length <= input.len());
            assert!(input[..length].ends_with(b"\r\n"));
            assert_eq!(decode(&input[..length]), Ok(Some((body, length))), "another body without the bytes behind it");
            assert_eq!(decode(&input[..length - 1]), Ok(None), "it was complete, or refused, a byte ago");
        }
        Ok(None) => {}
        Err(error) if error.to_status().0 == 413 => {}
        Err(error) => {
            let longer = [input, b"\r\n0\r\n\r\n"].concat();
            assert_eq!(decode(&longer), Err(error), "another answer to more of it");
        }
    }
});
