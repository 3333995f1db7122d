// Every kind of mask in small: who sees what, as `lacuna_kernels::KeyRanges` lays it out. Shared by the
// emulation and by a card.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

struct Range {
    int begin, end;
};
/// The two ranges of a query beyond the prefix.
struct Seen {
    Range first, second;
};

struct Case {
    std::string name;
    int batch, heads, kv_heads, d, kv_len, prefix;
    /// One list of queries for each of the batch, or one for all.
    std::vector<std::vector<Seen>> rows;
    int q_len() const { return static_cast<int>(rows[0].size()); }
    bool sees(int b, int query, int key) const {
        const Seen &s = rows[rows.size() == 1 ? 0 : b][query];
        return key < prefix || (s.first.begin <= key && key < s.first.end) ||
               (s.second.begin <= key && key < s.second.end);
    }
    /// Visible pairs of one head, the whole batch together.
    double pairs() const {
        double sum = 0;
        for (const auto &row : rows)
            for (const Seen &s : row)
                sum += prefix + std::max(0, s.first.end - s.first.begin) +
                       std::max(0, s.second.end - s.second.begin);
        return rows.size() == 1 ? sum * batch : sum;
    }
};

enum class Pattern { Causal, Full, BlockCausal, BlockDiffusion };

/// `AttentionMask::ranges`: what a query sees among `n` keys, or among twice `n` under
/// `BlockDiffusion`.
inline Seen pattern(Pattern mask, int block, int n, int query) {
    const auto block_end = [&](int i) { return std::min((i / block + 1) * block, n); };
    switch (mask) {
    case Pattern::Causal:
        return {{0, query + 1}, {0, 0}};
    case Pattern::Full:
        return {{0, n}, {0, 0}};
    case Pattern::BlockCausal:
        return {{0, block_end(query)}, {0, 0}};
    case Pattern::BlockDiffusion:
        if (query >= n) return {{n, n + block_end(query - n)}, {0, 0}};
        const int begin = query / block * block;
        return {{begin, block_end(query)}, {n, n + begin}};
    }
    return {};
}

/// `KeyRanges::new` behind a prefix.
inline std::vector<Seen> pass(Pattern mask, int block, int n, int prefix) {
    std::vector<Seen> seen;
    for (int i = 0; i < (mask == Pattern::BlockDiffusion ? 2 * n : n); i++) {
        Seen s = pattern(mask, block, n, i);
        for (Range *r : {&s.first, &s.second})
            if (r->begin < r->end) r->begin += prefix, r->end += prefix;
        seen.push_back(s);
    }
    return seen;
}

/// `KeyRanges::documents`: positions and blocks begin anew in each document.
inline std::vector<Seen> documents(Pattern mask, int block, const std::vector<int> &lengths) {
    int window = 0;
    for (int n : lengths) window += n;
    const int halves = mask == Pattern::BlockDiffusion ? 2 : 1;
    std::vector<Seen> seen(halves * window);
    int start = 0;
    for (int n : lengths) {
        const auto at = [&](int local) {
            return local < n ? start + local : window + start + local - n;
        };
        for (int i = 0; i < halves * n; i++) {
            Seen s = pattern(mask, block, n, i);
            for (Range *r : {&s.first, &s.second})
                if (r->begin < r->end) *r = {at(r->begin), at(r->end - 1) + 1};
            seen[at(i)] = s;
        }
        start += n;
    }
    return seen;
}

/// `KeyRanges::speculative`: [draft masked | queued | draft tokens] behind a prefix.
inline std::vector<Seen> speculative(int block, int queued, int draft, int prefix) {
    std::vector<Seen> seen;
    const int clean = prefix + draft;
    for (int i = 0; i < draft; i++) {
        const int begin = i / block * block;
        seen.push_back({{prefix + begin, prefix + std::min(begin + block, draft)},
                        {clean, clean + queued + begin}});
    }
    for (int i = 0; i < queued + draft; i++)
        seen.push_back(
            {{0, 0}, {clean, clean + std::min((i / block + 1) * block, queued + draft)}});
    return seen;
}

/// `KeyRanges::select_queries`.
inline std::vector<Seen> select(const std::vector<Seen> &row, const std::vector<int> &queries,
                                size_t length) {
    std::vector<Seen> seen;
    for (int i : queries) seen.push_back(row[i]);
    seen.resize(length, Seen{{0, 0}, {0, 0}});
    return seen;
}

inline std::vector<Case> small_cases(int d) {
    using P = Pattern;
    std::vector<Case> cases;
    const auto add = [&](const char *name, int batch, int heads, int kv_heads, int kv_len,
                         int prefix, std::vector<std::vector<Seen>> rows) {
        cases.push_back({std::string(name) + ", head " + std::to_string(d), batch, heads, kv_heads,
                         d, kv_len, prefix, std::move(rows)});
    };
    add("causal", 1, 2, 1, 150, 0, {pass(P::Causal, 1, 150, 0)});
    add("full", 2, 1, 1, 67, 0, {pass(P::Full, 1, 67, 0)});
    add("block-causal behind a prefix", 1, 4, 2, 70 + 45, 45, {pass(P::BlockCausal, 4, 70, 45)});
    add("block diffusion, blocks of 4", 1, 3, 1, 2 * 75, 0, {pass(P::BlockDiffusion, 4, 75, 0)});
    add("block diffusion, blocks of 32", 1, 1, 1, 2 * 96, 0, {pass(P::BlockDiffusion, 32, 96, 0)});
    auto noisy = pass(P::BlockDiffusion, 8, 100, 0);
    noisy.resize(100);
    noisy[5] = {{0, 0}, {0, 0}};
    add("the noisy half, one query blind", 1, 1, 1, 200, 0, {noisy});
    add("documents", 2, 2, 1, 80, 0,
        {documents(P::BlockDiffusion, 4, {7, 1, 32}), documents(P::BlockDiffusion, 4, {40})});
    add("speculative", 1, 2, 1, 33 + 40, 33, {speculative(4, 8, 16, 33)});
    // More tiles of keys in a row than a kernel has stages.
    add("few queries behind a long prefix", 1, 2, 1, 400 + 20, 400, {pass(P::Full, 1, 20, 400)});
    const auto whole = pass(P::BlockDiffusion, 4, 60, 0);
    std::vector<int> odd, few{119, 3, 64, 20, 21};
    for (int i = 0; i < 60; i += 2) odd.push_back(i);
    add("selected queries", 2, 1, 1, 120, 0,
        {select(whole, odd, odd.size()), select(whole, few, odd.size())});
    return cases;
}
