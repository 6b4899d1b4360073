//! Connection ids that a balancer can read: QUIC-LB, draft-ietf-quic-load-balancers.
//!
//! An id is a first octet (three bits that name the configuration, five that say the length of the rest), the node's server id, and a nonce. With a
//! key the last two are encrypted: in one pass of AES-128 where they are 16 octets together, otherwise by a Feistel network of four. A node without
//! a server id names the configuration 7, which balancers do not read, and has two octets made of its name in place of the server id.

use std::fmt;

use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use motience_settings::env::{Reader, Value, settings};
use quinn::ConnectionId;

/// Longest id of QUIC version 1.
const LONGEST: usize = 20;
/// Bytes of an AES block, and of its key.
const BLOCK: usize = 16;
/// Shortest and longest server id.
const SERVER_ID: std::ops::RangeInclusive<usize> = 1..=15;
/// Bytes of the server id that AWS gives.
const AWS_SERVER_ID: usize = 8;
/// The configuration of ids that no balancer reads.
const UNREADABLE: u8 = 7;
/// Random bytes of ids that no balancer reads.
const UNREADABLE_NONCE: usize = 5;

settings! {
    /// Connection ids that a balancer can read.
    #[derive(Clone, Debug)]
    pub struct Readable {
        /// The node's server id in its connection ids (QUIC-LB), in hexadecimal, 1 to 15 bytes: a balancer finds the node by it after a client's address
        /// has changed. Each node has one of its own, all of one length.
        QUIC_SERVER_ID, example "0a01" => server: Option<ServerId>;
        /// The server id as the AWS Load Balancer Controller sets it for target groups of QUIC: 8 bytes in Base64. Counts where QUIC_SERVER_ID is not set.
        AWS_LBC_QUIC_SERVER_ID => aws: Option<AwsServerId>;
        /// The key of the balancer's configuration (32 hexadecimal digits), under which server id and nonce are encrypted. Without it anybody can read
        /// in an id which node it is of. AWS has none.
        QUIC_LB_KEY => key: Option<Key>;
        /// The number of the balancer's configuration: the first three bits of every id.
        QUIC_LB_CONFIG = "0" => config: u8, "0"..="6";
        /// Bytes of the nonce; with the server id at most 19. Encryption is cheapest where both have 16 together.
        QUIC_LB_NONCE_LENGTH = "8" => nonce: usize, "4"..="18";
    }
}

/// A server id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerId(Vec<u8>);

impl Value for ServerId {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "must be 1 to 15 bytes in hexadecimal, such as 0a01".to_owned();
        hex(text).filter(|bytes| SERVER_ID.contains(&bytes.len())).map(Self).ok_or_else(wrong)
    }
}

/// A server id as AWS writes it. Its documents name targets in hexadecimal, and that is taken too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsServerId(Vec<u8>);

impl Value for AwsServerId {
    fn parse(text: &str) -> Result<Self, String> {
        let base64 = || STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let bytes = hex(text).or_else(base64).filter(|bytes| bytes.len() == AWS_SERVER_ID);
        bytes.map(Self).ok_or_else(|| "must be 8 bytes in Base64".to_owned())
    }
}

/// A key of AES-128.
#[derive(Clone)]
pub struct Key([u8; BLOCK]);

impl Value for Key {
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        hex(text).and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| "must be 32 hexadecimal digits".to_owned())
    }
}

impl fmt::Debug for Key {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Readable {
    /// Notes what does not fit together.
    pub(crate) fn check(&self, reader: &mut Reader<'_>) {
        let Some(server) = self.server_id() else {
            if self.key.is_some() {
                reader.wrong("QUIC_LB_KEY", "needs QUIC_SERVER_ID: without it ids name no server");
            }
            return;
        };
        if server.len() + self.nonce > LONGEST - 1 {
            let room = LONGEST - 1 - server.len();
            reader.wrong("QUIC_LB_NONCE_LENGTH", format!("is too much beside a server id of {} bytes: at most {room}", server.len()));
        }
    }

    fn server_id(&self) -> Option<&[u8]> {
        self.server.as_ref().map(|id| &id.0[..]).or(self.aws.as_ref().map(|id| &id.0[..]))
    }
}

/// How the ids of a node are made.
pub(super) struct Scheme {
    config: u8,
    server: Vec<u8>,
    nonce: usize,
    cipher: Option<Cipher>,
}

impl Scheme {
    /// That of these settings, for the node of this name.
    pub(super) fn new(settings: &Readable, node: &str) -> Self {
        match settings.server_id() {
            Some(server) => {
                let cipher = settings.key.as_ref().map(Cipher::new);
                Self { config: settings.config, server: server.to_owned(), nonce: settings.nonce, cipher }
            }
            None => {
                // FNV-1a, folded: nodes of one platform only have to differ.
                let hash = node.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
                let [a, b, c, d] = hash.to_be_bytes();
                Self { config: UNREADABLE, server: vec![a ^ c, b ^ d], nonce: UNREADABLE_NONCE, cipher: None }
            }
        }
    }

    /// Bytes of each id.
    pub(super) fn length(&self) -> usize {
        1 + self.server.len() + self.nonce
    }

    /// Bytes of a nonce.
    pub(super) fn nonce_length(&self) -> usize {
        self.nonce
    }

    /// The id with this nonce.
    pub(super) fn id(&self, nonce: &[u8]) -> ConnectionId {
        let (mut id, length) = ([0; LONGEST], self.length());
        id[0] = self.first();
        let body = &mut id[1..length];
        let (server, rest) = body.split_at_mut(self.server.len());
        server.copy_from_slice(&self.server);
        rest.copy_from_slice(nonce);
        if let Some(cipher) = &self.cipher {
            cipher.encrypt(body);
        }
        ConnectionId::new(&id[..length])
    }

    /// Whether an id is one of this node's.
    pub(super) fn made(&self, id: &ConnectionId) -> bool {
        if id.len() != self.length() || id[0] != self.first() {
            return false;
        }
        let mut body = id[1..].to_vec();
        if let Some(cipher) = &self.cipher {
            cipher.decrypt(&mut body);
        }
        body.starts_with(&self.server)
    }

    fn first(&self) -> u8 {
        // At most 19: five bits hold it.
        (self.config << 5) | (self.length() - 1).to_le_bytes()[0]
    }
}

/// The encryption of what follows the first octet.
struct Cipher {
    encrypts: EncryptingKey,
    /// For a single block; the network of four passes only encrypts.
    decrypts: DecryptingKey,
}

impl Cipher {
    fn new(key: &Key) -> Self {
        let key = || UnboundCipherKey::new(&AES_128, &key.0);
        let pair = || Ok::<_, aws_lc_rs::error::Unspecified>((EncryptingKey::ecb(key()?)?, DecryptingKey::ecb(key()?)?));
        let (encrypts, decrypts) = pair().expect("AES-128 has keys of 16 bytes");
        Self { encrypts, decrypts }
    }

    fn encrypt(&self, body: &mut [u8]) {
        match <&mut [u8; BLOCK]>::try_from(&mut *body) {
            Ok(block) => self.block(block),
            Err(_) => self.network(body, [1, 2, 3, 4]),
        }
    }

    fn decrypt(&self, body: &mut [u8]) {
        if body.len() == BLOCK {
            self.decrypts.decrypt(body, DecryptionContext::None).expect("a block is 16 bytes");
        } else {
            self.network(body, [4, 3, 2, 1]);
        }
    }

    fn block(&self, block: &mut [u8; BLOCK]) {
        self.encrypts.encrypt(block).expect("a block is 16 bytes");
    }

    /// Each pass mixes one half into the other. Where the length is odd, the halves share the middle octet, four bits each.
    fn network(&self, body: &mut [u8], passes: [u8; 4]) {
        let (length, half) = (body.len(), body.len().div_ceil(2));
        let mut left = body[..half].to_vec();
        let mut right = body[length - half..].to_vec();
        let clear = |left: &mut [u8], right: &mut [u8]| {
            if length % 2 == 1 {
                left[half - 1] &= 0xf0;
                right[0] &= 0x0f;
            }
        };
        clear(&mut left, &mut right);
        for pass in passes {
            let (from, into) = if pass % 2 == 1 { (&left, &mut right) } else { (&right, &mut left) };
            let mut mask = [0; BLOCK];
            mask[..half].copy_from_slice(from);
            mask[BLOCK - 2..].copy_from_slice(&[length.to_le_bytes()[0], pass]);
            self.block(&mut mask);
            into.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
            clear(&mut left, &mut right);
        }
        let middle = left[half - 1] | right[0];
        body[..half].copy_from_slice(&left);
        body[length - half..].copy_from_slice(&right);
        if length % 2 == 1 {
            body[half - 1] = middle;
        }
    }
}

/// Bytes in hexadecimal, with or without `0x`.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let are_digits = !digits.is_empty() && digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
    if are_digits { digits.chunks(2).map(pair).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use motience_settings::env::Env;

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Readable {
        Readable::from_env(&Env::from_pairs(pairs.iter().copied())).unwrap()
    }

    fn scheme(config: &str, server: &str, key: Option<&str>, nonce: usize) -> Scheme {
        let nonce = nonce.to_string();
        let mut pairs = vec![("QUIC_LB_CONFIG", config), ("QUIC_SERVER_ID", server), ("QUIC_LB_NONCE_LENGTH", &nonce)];
        pairs.extend(key.map(|key| ("QUIC_LB_KEY", key)));
        Scheme::new(&settings(&pairs), "node")
    }

    /// The draft's appendix, but for the second one without a key, which it prints with an odd number of digits; and the example in its text. The
    /// last of the appendix is printed with configuration 3, and its id has 0.
    #[test]
    fn ids_are_those_of_the_drafts_vectors() {
        let key = Some("8f95f09245765f80256934e50c66207f");
        for (config, server, nonce, key, id) in [
            ("0", "c4605e", "4504cc4f", None, "07c4605e4504cc4f"),
            ("0", "ed793a", "ee080dbf", key, "0720b1d07b359d3c"),
            ("1", "ed793a51d49b8f5fab65", "ee080dbf48", key, "2fcc381bc74cb4fbad2823a3d1f8fed2"),
            ("2", "ed793a51d49b8f5f", "ee080dbf48c0d1e5", key, "504dd2d05a7b0de9b2b9907afb5ecf8cc3"),
            ("0", "ed793a51d49b8f5fab", "ee080dbf48c0d1e55d", key, "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc"),
            ("0", "31441a", "9c69c275", Some("fdf726a9893ec05c0632d3956680baf0"), "0767947d29be054a"),
        ] {
            let nonce = hex(nonce).unwrap();
            let scheme = scheme(config, server, key, nonce.len());
            let made = scheme.id(&nonce);
            assert_eq!(made[..], hex(id).unwrap()[..], "{id}");
            assert!(scheme.made(&made));
        }
    }

    #[test]
    fn an_id_of_another_node_key_or_configuration_is_not_ones_own() {
        let key = "8f95f09245765f80256934e50c66207f";
        let own = scheme("1", "0a01", Some(key), 8);
        for other in [
            scheme("1", "0a02", Some(key), 8),
            scheme("2", "0a01", Some(key), 8),
            scheme("1", "0a01", Some("8f95f09245765f80256934e50c662070"), 8),
            scheme("1", "0a01", None, 8),
            scheme("1", "0a01", Some(key), 9),
        ] {
            assert!(!own.made(&other.id(&vec![7; other.nonce_length()])));
        }
    }

    #[test]
    fn a_node_without_a_server_id_makes_ids_that_no_balancer_reads() {
        let scheme = |node| Scheme::new(&settings(&[]), node);
        let id = scheme("node-a").id(&[1, 2, 3, 4, 5]);
        assert_eq!((id.len(), id[0]), (8, 0b1110_0111));
        assert!(scheme("node-a").made(&id) && !scheme("node-b").made(&id));
    }

    #[test]
    fn what_aws_sets_is_a_server_id() {
        for text in ["LWV1oW+gjqQ=", "LWV1oW+gjqQ", "0x2d6575a16fa08ea4"] {
            let scheme = Scheme::new(&settings(&[("AWS_LBC_QUIC_SERVER_ID", text)]), "node");
            assert_eq!(scheme.id(&[0; 8])[..9], [&[16][..], &hex("2d6575a16fa08ea4").unwrap()].concat()[..], "{text}");
        }
        let own = settings(&[("AWS_LBC_QUIC_SERVER_ID", "LWV1oW+gjqQ="), ("QUIC_SERVER_ID", "0a")]);
        assert_eq!(own.server_id(), Some(&[10][..]));
    }

    #[test]
    fn settings_that_make_no_id_are_refused() {
        let check = |pairs: &[(&str, &str)]| Env::from_pairs(pairs.iter().copied()).read(|reader| reader.group::<Readable>().check(reader));
        let key = ("QUIC_LB_KEY", "8f95f09245765f80256934e50c66207f");
        for (pairs, wrong) in [
            (&[key][..], "QUIC_LB_KEY: "),
            (&[("QUIC_SERVER_ID", "0a"), ("QUIC_LB_KEY", "8f95")], "QUIC_LB_KEY: must"),
            (&[("QUIC_SERVER_ID", "0a0")], "QUIC_SERVER_ID: "),
            (&[("QUIC_SERVER_ID", "node")], "QUIC_SERVER_ID: "),
            (&[("QUIC_SERVER_ID", "0102030405060708090a0b0c")], "QUIC_LB_NONCE_LENGTH: "),
            (&[("QUIC_LB_CONFIG", "7")], "QUIC_LB_CONFIG: "),
            (&[("AWS_LBC_QUIC_SERVER_ID", "LWV1")], "AWS_LBC_QUIC_SERVER_ID: "),
        ] {
            let error = check(pairs).unwrap_err().to_string();
            assert!(error.contains(wrong) && !error.contains("8f95"), "{error}");
        }
        check(&[("QUIC_SERVER_ID", "0102030405060708090a0b"), key]).unwrap();
    }
}
