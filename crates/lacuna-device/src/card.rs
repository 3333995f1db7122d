//! Chooses the kernels of a generation of cards, and says how a pass is cut into their tiles.

/// A generation of cards, by the kernels that serve it best.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Card {
    /// The A100 (sm_80), which gives a block more than 99 KB of shared memory.
    Large,
    /// Cards that give a block 99 KB (sm_86, sm_89, sm_120). Their kernels run on every card.
    #[default]
    Small,
    /// The H100 and H200 (sm_90a).
    Hopper,
}

/// The kernels of attention for one size of heads: the ends of their names, and the tiles that they were written for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub(crate) forward: &'static str,
    pub(crate) rows: &'static str,
    pub(crate) backward_queries: &'static str,
    pub(crate) backward_keys: &'static str,
    head_dim: u32,
    /// Queries and keys of a tile: forward, for the gradient of queries, and (keys first) for that of keys.
    tiles: [[u32; 2]; 3],
    /// Threads for each row of a block's own tile, times 64.
    hopper: bool,
}

impl Attention {
    /// The kernels for heads of this size; none if there are no such.
    pub(crate) fn of(card: Card, head_dim: usize) -> Option<Self> {
        type Names = [&'static str; 4];
        let plain = |head_dim: u32, names: Names, tiles: [[u32; 2]; 3]| {
            let [forward, rows, backward_queries, backward_keys] = names;
            let hopper = card == Card::Hopper;
            Some(Self { forward, rows, backward_queries, backward_keys, head_dim, tiles, hopper })
        };
        match (head_dim, card) {
            (64, Card::Large) => plain(
                64,
                [
                    "attention_forward_64",
                    "attention_backward_rows_64",
                    "attention_backward_queries_64",
                    "attention_backward_keys_64",
                ],
                [[128, 64], [128, 64], [128, 32]],
            ),
            (64, Card::Small) => plain(
                64,
                [
                    "attention_forward_64",
                    "attention_backward_rows_64",
                    "attention_backward_queries_64_small",
                    "attention_backward_keys_64",
                ],
                [[128, 64], [128, 32], [128, 32]],
            ),
            (64, Card::Hopper) => plain(
                64,
                [
                    "attention_forward_64_hopper",
                    "attention_backward_rows_64",
                    "attention_backward_queries_64_hopper",
                    "attention_backward_keys_64_hopper",
                ],
                [[64, 64], [64, 64], [64, 64]],
            ),
            (128, Card::Large) => plain(
                128,
                [
                    "attention_forward_128",
                    "attention_backward_rows_128",
                    "attention_backward_queries_128",
                    "attention_backward_keys_128",
                ],
                [[128, 64], [128, 32], [64, 64]],
            ),
            (128, Card::Small) => plain(
                128,
                [
                    "attention_forward_128_small",
                    "attention_backward_rows_128",
                    "attention_backward_queries_128_small",
                    "attention_backward_keys_128_small",
                ],
                [[64, 32], [64, 32], [64, 32]],
            ),
            (128, Card::Hopper) => plain(
                128,
                [
                    "attention_forward_128_hopper",
                    "attention_backward_rows_128",
                    "attention_backward_queries_128_hopper",
                    "attention_backward_keys_128_hopper",
                ],
                [[128, 128], [128, 128], [64, 64]],
            ),
            _ => None,
        }
    }

    fn threads(&self, rows: u32) -> u32 {
        if self.hopper { 2 * rows } else { 128 }
    }

    /// Rows of a block, its threads and bytes of shared memory: forward.
    pub(crate) fn forward_blocks(&self) -> (u32, u32, u32) {
        let [queries, keys] = self.tiles[0];
        (queries, self.threads(queries), (queries + 4 * keys) * self.head_dim * 2)
    }

    /// The same for the gradient of queries.
    pub(crate) fn query_blocks(&self) -> (u32, u32, u32) {
        let [queries, keys] = self.tiles[1];
        (queries, self.threads(queries), (2 * queries + 4 * keys) * self.head_dim * 2)
    }

    /// The same for the gradients of keys and values, whose blocks take keys.
    pub(crate) fn key_blocks(&self) -> (u32, u32, u32) {
        let [keys, queries] = self.tiles[2];
        let shared = (2 * keys + 4 * queries) * self.head_dim * 2 + 2 * queries * 8;
        (keys, self.threads(keys), shared)
    }
}

/// The kernels of products: their names, and threads of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Products {
    pub(crate) forward: &'static str,
    pub(crate) input_gradient: &'static str,
    pub(crate) weight_gradient: &'static str,
    pub(crate) loss_forward: &'static str,
    pub(crate) loss_gradient: &'static str,
    pub(crate) threads: u32,
    /// Blocks that a card of the kind runs at a time, about: its multiprocessors by the blocks that their shared memory has
    /// room for.
    pub(crate) at_once: usize,
}

impl Products {
    /// Rows and columns of a tile.
    pub(crate) const TILE: usize = 128;
    /// Bytes of shared memory: three stages of two slabs of 128 × 64 numbers.
    pub(crate) const SHARED: u32 = 3 * 2 * 128 * 64 * 2;

    pub(crate) fn of(card: Card) -> Self {
        match card {
            Card::Large | Card::Small => Self {
                // An A100 has 108 multiprocessors, an RTX 4090 128, with room for one block each.
                at_once: if card == Card::Large { 108 } else { 128 },
                forward: "linear_forward",
                input_gradient: "linear_input_gradient",
                weight_gradient: "linear_weight_gradient",
                loss_forward: "cross_entropy_forward",
                loss_gradient: "cross_entropy_gradient",
                threads: 128,
            },
            Card::Hopper => Self {
                // 132 multiprocessors with room for two.
                at_once: 264,
                forward: "linear_forward_hopper",
                input_gradient: "linear_input_gradient_hopper",
                weight_gradient: "linear_weight_gradient_hopper",
                loss_forward: "cross_entropy_forward_hopper",
                loss_gradient: "cross_entropy_gradient_hopper",
                threads: 256,
            },
        }
    }
}
