// Candidates from rows of logits: the token that lacuna_samplers' `CandidateSampler` picks, its
// confidence, margin, entropy and uniform number, without copying a vocabulary to the host.
//
//   sample_maxima   largest logits of each span of a row
//   sample_spans    sums of exponentials, and a draw or a pool of what filters may leave, of each
//   sample_rows     one candidate for each draw
//
// A row is read twice, the second time out of the cache where rows fit in it: the CPU's sums are of
// exponentials below the row's maximum, and only with these very terms does a probability that
// decides something, as top-p's total does, come out as there. docs/gpu.md says what is equal.
#pragma once
#include "sample.cuh"

/// Sums over a warp, for all its lanes.
__device__ __forceinline__ double sum_of_warp(double x) {
#pragma unroll
    for (int step = 16; step; step >>= 1) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

/// The row's maxima from its spans', for each warp by itself.
__device__ __forceinline__ Maxima row_maxima(const SampleArgs &p, int draw) {
    Maxima row;
    for (int span = threadIdx.x % 32; span < p.n_spans(); span += 32)
        row.merge(p.maxima[(long long)draw * p.n_spans() + span]);
#pragma unroll
    for (int step = 16; step; step >>= 1) row.merge(row.of_lane(step));
    return row;
}

/// A block takes a span of one draw's row.
__device__ __forceinline__ void sample_maxima_of(const SampleArgs &p) {
    SHARED_MEMORY(shared);
    Maxima *warps = reinterpret_cast<Maxima *>(shared);
    const Draw &draw = p.draws[blockIdx.y];
    if (draw.row < 0) return;
    const float *row = p.logits + draw.row * p.stride;
    const int first = blockIdx.x * SPAN + threadIdx.x;
    unsigned forbidden = 0; // of this thread's tokens, one bit each
    for (int i = 0; i < draw.n_forbidden; i++) {
        const int at = draw.forbidden[i] - first;
        if (at >= 0 && at < SPAN && at % SAMPLE_THREADS == 0)
            forbidden |= 1u << at / SAMPLE_THREADS;
    }
    Maxima mine;
#pragma unroll
    for (int i = 0; i < OF_A_THREAD; i++) {
        const int token = first + i * SAMPLE_THREADS;
        if (token >= p.vocab) continue;
        const float logit = row[token];
        mine.add(logit, draw.penalised(logit, token), token, forbidden >> i & 1);
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) mine.merge(mine.of_lane(step));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x) return;
    for (int warp = 1; warp < SAMPLE_WARPS; warp++) mine.merge(warps[warp]);
    p.maxima[(long long)blockIdx.y * p.n_spans() + blockIdx.x] = mine;
}

/// A span's logits in shared memory and those behind it that its last chunk of exponentials needs.
/// A word is left out after every 32: neither reading in a row nor by sixteens meets in a bank.
struct Span {
    float *words;
    int first, end; ///< tokens of the span
    static constexpr int BYTES = (SPAN + CHUNK) / 32 * 33 * 4;
    __device__ __forceinline__ float &at(int token) const {
        const int i = token - first;
        return words[i + (i >> 5)];
    }
};

/// Adds the span's part of Σ e^d, and of Σ d e^d, over tokens begin..end, in the CPU's terms
/// (`rows::exp_sums`): those of a chunk that begins in the span, and those behind the last chunk.
template <bool MOMENT>
__device__ __forceinline__ void add_exponentials(const Span &span, int begin, int end, float most,
                                                 float scale, double &sum, double &moment) {
    const int chunks = (end - begin) / CHUNK, tail = begin + chunks * CHUNK;
    const auto chunks_before = [&](int token) {
        return token <= begin ? 0 : min((token - begin + CHUNK - 1) / CHUNK, chunks);
    };
    const int from = chunks_before(span.first) * LANES, to = chunks_before(span.end) * LANES;
    for (int i = from + static_cast<int>(threadIdx.x); i < to; i += SAMPLE_THREADS) {
        const int token = begin + i / LANES * CHUNK + i % LANES;
        float part = 0, part_moment = 0;
#pragma unroll
        for (int j = 0; j < CHUNK; j += LANES) {
            const float d = distance(span.at(token + j), most, scale), e = exp_nonpositive(d);
            part = __fadd_rn(part, e);
            if (MOMENT) part_moment = __fadd_rn(part_moment, __fmul_rn(d, e));
        }
        sum += part;
        if (MOMENT) moment += part_moment;
    }
    for (int token = max(tail, span.first) + static_cast<int>(threadIdx.x);
         token < min(end, span.end); token += SAMPLE_THREADS) {
        const float d = distance(span.at(token), most, scale), e = exp_nonpositive(d);
        sum += e;
        if (MOMENT) moment += __fmul_rn(d, e);
    }
}

/// What the warps of a block tell each other.
struct SpanScratch {
    double sums[SAMPLE_WARPS], moments[SAMPLE_WARPS], totals[SAMPLE_WARPS];
    Race races[SAMPLE_WARPS];
    int kept[SAMPLE_WARPS], pooled[SAMPLE_WARPS];
    float maxima[SAMPLE_THREADS];
    float floor;
};
constexpr int MAXIMA_SHARED = SAMPLE_WARPS * sizeof(Maxima);
constexpr int SPANS_SHARED = Span::BYTES + sizeof(SpanScratch);

/// Shared memory becomes what is drawn from: penalties on, −∞ where nothing may come out.
__device__ __forceinline__ void narrow(const Span &span, const Draw &draw, int held) {
    __syncthreads(); // nobody reads the logits as they came any more
    if (draw.seen) {
        for (int token = span.first + threadIdx.x; token < held; token += SAMPLE_THREADS)
            span.at(token) = draw.penalised(span.at(token), token);
        __syncthreads(); // a forbidden token's thread may be another's
    }
    for (int i = threadIdx.x; i < draw.n_forbidden; i += SAMPLE_THREADS)
        if (draw.forbidden[i] >= span.first && draw.forbidden[i] < held)
            span.at(draw.forbidden[i]) = MINUS_INFINITY;
    __syncthreads();
}

/// The span's winner among this warp's tokens. One exact score, that of the token whose bound is
/// highest, rules out nearly all others.
__device__ __forceinline__ Race race_of_warp(const Span &span, const Draw &draw, float most) {
    const Stream stream(draw, OF_TOKENS);
    const float scale = inverse(draw.temperature);
    const int first = span.first + threadIdx.x * OF_A_THREAD;
    unsigned words[16];
    stream.block(words, static_cast<unsigned>(first) / 16);
    float bounds[OF_A_THREAD], best = MINUS_INFINITY;
    int leader = -1;
#pragma unroll
    for (int i = 0; i < OF_A_THREAD; i++) {
        bounds[i] = first + i < span.end ? Race::bound(span.at(first + i), most, scale, words[i])
                                         : MINUS_INFINITY;
        if (bounds[i] > best) best = bounds[i], leader = first + i;
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) {
        const float other = __shfl_xor_sync(~0u, best, step);
        const int other_leader = __shfl_xor_sync(~0u, leader, step);
        if (other > best || (other == best && other_leader < leader))
            best = other, leader = other_leader;
    }
    Race race;
    if (leader < 0) return race;
    race.enter(draw, most, span.at(leader), leader, stream.word(leader));
    const float score = static_cast<float>(race.score);
    unsigned contenders = 0;
#pragma unroll
    for (int i = 0; i < OF_A_THREAD; i++) contenders |= (bounds[i] >= score ? 1u : 0u) << i;
    for (; contenders; contenders &= contenders - 1) {
        const int token = first + __ffs(contenders) - 1;
        race.enter(draw, most, span.at(token), token, stream.word(token));
    }
    race.gather();
    return race;
}

/// A bound that every token which the filters leave reaches: `CandidateSampler::filter`'s, but for
/// the k-th largest, which is of the threads' maxima of this span. All threads of a block come.
__device__ __forceinline__ double floor_of(const Draw &draw, float most, int vocab, float mine,
                                           SpanScratch &scratch) {
    double floor = MINUS_INFINITY;
    if (draw.top_k) {
        if (draw.top_k > SAMPLE_THREADS) return floor;
        scratch.maxima[threadIdx.x] = mine;
        __syncthreads();
        int rank = 0;
        for (int i = 0; i < SAMPLE_THREADS; i++) {
            const float other = scratch.maxima[i];
            rank += other > mine || (other == mine && i < static_cast<int>(threadIdx.x));
        }
        if (rank == draw.top_k - 1) scratch.floor = mine;
        __syncthreads();
        return scratch.floor;
    }
    // Weights sum up to 1 at least: the largest one's is 1.
    if (draw.top_p > 0)
        floor = most + draw.temperature * log((1 - draw.top_p) / vocab * (1 - 1e-3));
    if (draw.min_p > 0) floor = fmax(floor, most + draw.temperature * (log(draw.min_p) - 1e-9));
    return floor;
}

/// Writes what filters may leave of the span, in the order of tokens; this warp's part is counted.
__device__ __forceinline__ int fill_pool(const Span &span, const Draw &draw, float most, int vocab,
                                         int2 *pool, SpanScratch &scratch) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32,
              first = span.first + warp * 32 * OF_A_THREAD + lane;
    float mine = MINUS_INFINITY;
    for (int i = 0; i < OF_A_THREAD; i++)
        if (first + i * 32 < span.end) mine = fmaxf(mine, span.at(first + i * 32));
    const double floor = floor_of(draw, most, vocab, mine, scratch);
    const auto kept_of = [&](int i) {
        const float logit = first + i * 32 < span.end ? span.at(first + i * 32) : MINUS_INFINITY;
        return __ballot_sync(~0u, logit > MINUS_INFINITY && logit >= floor);
    };
    int count = 0;
    for (int i = 0; i < OF_A_THREAD; i++) count += __popc(kept_of(i));
    if (lane == 0) scratch.kept[warp] = count;
    __syncthreads();
    for (int before = 0; before < warp; before++) pool += scratch.kept[before];
    for (int i = 0; i < OF_A_THREAD; i++) {
        const unsigned kept = kept_of(i);
        const int token = first + i * 32;
        if (kept >> lane & 1)
            pool[__popc(kept & ((1u << lane) - 1))] =
                make_int2(__float_as_int(span.at(token)), token);
        pool += __popc(kept);
    }
    return count;
}

/// Σ e^(d/T) over tokens that may be drawn: of each piece between forbidden ones, as the CPU goes.
__device__ __forceinline__ double total_of(const Span &span, const Draw &draw, float most,
                                           int vocab) {
    double total = 0, no_moment = 0;
    for (int i = 0, begin = 0; i <= draw.n_forbidden; i++) {
        const int end = i < draw.n_forbidden ? min(draw.forbidden[i], vocab) : vocab;
        if (begin < min(end, span.end) && end > span.first)
            add_exponentials<false>(span, begin, end, most, inverse(draw.temperature), total,
                                    no_moment);
        begin = max(begin, end + 1);
    }
    return total;
}

/// A block takes a span of one draw's row.
__device__ __forceinline__ void sample_span(const SampleArgs &p) {
    SHARED_MEMORY(shared);
    const Draw &draw = p.draws[blockIdx.y];
    if (draw.row < 0) return;
    const Maxima row = row_maxima(p, blockIdx.y);
    if (row.broken || row.drawn == MINUS_INFINITY) return;
    const int first = blockIdx.x * SPAN;
    const Span span{reinterpret_cast<float *>(shared), first, min(first + SPAN, p.vocab)};
    SpanScratch &scratch = *reinterpret_cast<SpanScratch *>(shared + Span::BYTES);
    const int held = min(first + SPAN + CHUNK, p.vocab), warp = threadIdx.x / 32;
    const float *logits = p.logits + draw.row * p.stride;
#pragma unroll 8
    for (int token = first + threadIdx.x; token < held; token += SAMPLE_THREADS)
        span.at(token) = logits[token];
    __syncthreads();
    double sum = 0, moment = 0, total = 0;
    add_exponentials<true>(span, 0, p.vocab, row.most, 1, sum, moment);
    Race race;
    int pooled = 0;
    if (draw.temperature > 0) {
        narrow(span, draw, held);
        if (draw.top_p > 0 && !draw.top_k) total = total_of(span, draw, row.drawn, p.vocab);
        if (draw.filters())
            pooled = fill_pool(span, draw, row.drawn, p.vocab, p.pool_of(blockIdx.y, blockIdx.x),
                               scratch);
        else
            race = race_of_warp(span, draw, row.drawn);
    }
    sum = sum_of_warp(sum), moment = sum_of_warp(moment), total = sum_of_warp(total);
    if (threadIdx.x % 32 == 0) {
        scratch.sums[warp] = sum, scratch.moments[warp] = moment, scratch.totals[warp] = total;
        scratch.races[warp] = race, scratch.pooled[warp] = pooled;
    }
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < SAMPLE_WARPS; i++) {
        sum += scratch.sums[i], moment += scratch.moments[i], total += scratch.totals[i];
        race.merge(scratch.races[i].score, scratch.races[i].token);
        pooled += scratch.pooled[i];
    }
    p.spans[(long long)blockIdx.y * p.n_spans() + blockIdx.x] = {sum,        moment,     total,
                                                                 race.score, race.token, pooled};
}

/// A sum of weights of at most 1 each, exact to 2⁻⁷²: so it does not depend on their order.
struct Mass {
    unsigned long long high = 0, low = 0; ///< times 2⁻³², times 2⁻⁷²
    static __device__ __forceinline__ Mass of(double weight) {
        const double scaled = weight * 4294967296.;
        Mass mass;
        mass.high = static_cast<unsigned long long>(scaled);
        mass.low = static_cast<unsigned long long>((scaled - mass.high) * 1099511627776.);
        return mass;
    }
    __device__ __forceinline__ void add(const Mass &other) { high += other.high, low += other.low; }
    __device__ __forceinline__ double value() const {
        return high * (1 / 4294967296.) + low * (1 / 4294967296. / 1099511627776.);
    }
};

constexpr int DIGITS = 256;
static_assert(DIGITS == SAMPLE_THREADS);

struct RowScratch {
    int2 staged[STAGED];
    int offsets[MOST_SPANS + 1];
    unsigned long long high[DIGITS], low[DIGITS];
    unsigned count[DIGITS];
    Mass above, all;
    int digit;
    Race races[SAMPLE_WARPS];
};
constexpr int ROWS_SHARED = sizeof(RowScratch);

/// The pools of a row's spans as one.
struct Pool {
    const SampleArgs &p;
    RowScratch &scratch;
    int draw, size;

    /// All threads of the block come.
    __device__ __forceinline__ Pool(const SampleArgs &args, int of_draw, RowScratch &with)
        : p(args), scratch(with), draw(of_draw) {
        const int n_spans = p.n_spans();
        for (int span = threadIdx.x; span < n_spans; span += SAMPLE_THREADS)
            scratch.offsets[span + 1] = p.spans[(long long)draw * n_spans + span].pooled;
        __syncthreads();
        if (threadIdx.x == 0) {
            scratch.offsets[0] = 0;
            for (int span = 0; span < n_spans; span++)
                scratch.offsets[span + 1] += scratch.offsets[span];
        }
        __syncthreads();
        size = scratch.offsets[n_spans];
        for (int i = threadIdx.x; i < min(size, STAGED); i += SAMPLE_THREADS)
            scratch.staged[i] = find(i);
        __syncthreads();
    }
    __device__ __forceinline__ int2 find(int i) const {
        int span = 0, end = p.n_spans(); // the span's offset is at most i, the end's above it
        while (end - span > 1) {
            const int middle = (span + end) / 2;
            (scratch.offsets[middle] <= i ? span : end) = middle;
        }
        return p.pool_of(draw, span)[i - scratch.offsets[span]];
    }
    __device__ __forceinline__ int2 operator[](int i) const {
        return i < STAGED ? scratch.staged[i] : find(i);
    }
    /// Higher for larger logits, of equal ones for lower tokens: no two entries share one.
    static __device__ __forceinline__ unsigned long long rank(int2 entry) {
        const unsigned bits = static_cast<unsigned>(entry.x),
                       ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
        return static_cast<unsigned long long>(ordered) << 32 | ~static_cast<unsigned>(entry.y);
    }
};

/// Puts in `scratch` the sum of each digit and all above it; this thread's own comes back.
__device__ __forceinline__ Mass sum_digits(RowScratch &scratch) {
    const int digit = threadIdx.x;
    Mass own, sum;
    own.high = scratch.high[digit], own.low = scratch.low[digit];
    sum = own;
    for (int step = 1; step < DIGITS; step *= 2) {
        Mass other;
        if (digit + step < DIGITS)
            other.high = scratch.high[digit + step], other.low = scratch.low[digit + step];
        __syncthreads();
        sum.add(other);
        scratch.high[digit] = sum.high, scratch.low[digit] = sum.low;
        __syncthreads();
    }
    return own;
}

/// The rank down to which entries are kept: the lowest of those before which less than `target` is
/// held by entries above. Entries below `least` do not count. With a weight of 1 for each this is
/// top-k; with exp((logit − max)/T), top-p. A `share` of all there is may be the target instead.
/// All threads of the block come.
template <class Weight>
__device__ __forceinline__ unsigned long long cut(const Pool &pool, unsigned long long least,
                                                  double target, double share, Weight weight) {
    RowScratch &scratch = pool.scratch;
    const int digit = threadIdx.x;
    unsigned long long found = 0;
    Mass above;
    for (int shift = 56; shift >= 0; shift -= 8) {
        scratch.high[digit] = scratch.low[digit] = scratch.count[digit] = 0;
        if (digit == 0) scratch.digit = DIGITS;
        __syncthreads();
        for (int i = digit; i < pool.size; i += SAMPLE_THREADS) {
            const int2 entry = pool[i];
            const unsigned long long rank = Pool::rank(entry);
            if (rank < least || (shift < 56 && (rank ^ found) >> (shift + 8))) continue;
            const Mass mass = Mass::of(weight(__int_as_float(entry.x)));
            const int at = rank >> shift & (DIGITS - 1);
            atomicAdd(&scratch.high[at], mass.high);
            atomicAdd(&scratch.low[at], mass.low);
            atomicAdd(&scratch.count[at], 1u);
        }
        __syncthreads();
        const Mass own = sum_digits(scratch);
        if (shift == 56 && share > 0) {
            Mass all;
            all.high = scratch.high[0], all.low = scratch.low[0];
            target = share * all.value();
        }
        Mass before = above;
        before.high += scratch.high[digit] - own.high, before.low += scratch.low[digit] - own.low;
        const bool reached = scratch.count[digit] && before.value() < target;
        if (reached) atomicMin(&scratch.digit, digit);
        __syncthreads();
        if (digit == scratch.digit) scratch.above = before;
        __syncthreads();
        above = scratch.above;
        found |= static_cast<unsigned long long>(scratch.digit) << shift;
        const bool alone = scratch.count[scratch.digit] == 1;
        __syncthreads();
        if (alone) break;
    }
    return found;
}

/// The winner among what the filters leave. All threads of the block come.
__device__ __forceinline__ Race race_of_pool(const SampleArgs &p, const Draw &draw, float most,
                                             double total, RowScratch &scratch) {
    const Pool pool(p, blockIdx.x, scratch);
    const auto weight = [&](float logit) {
        return exp((static_cast<double>(logit) - most) / draw.temperature);
    };
    unsigned long long least = 0;
    if (draw.top_k) least = cut(pool, least, draw.top_k, 0, [](float) { return 1.; });
    if (draw.top_p > 0)
        least = cut(pool, least, draw.top_p * total, draw.top_k ? draw.top_p : 0, weight);
    const Stream stream(draw, OF_TOKENS);
    const float scale = inverse(draw.temperature);
    Race race;
    for (int i = threadIdx.x; i < pool.size; i += SAMPLE_THREADS) {
        const int2 entry = pool[i];
        const float logit = __int_as_float(entry.x);
        if (Pool::rank(entry) < least) continue;
        if (draw.min_p > 0 && weight(logit) < draw.min_p) continue;
        const unsigned word = stream.word(entry.y);
        if (Race::bound(logit, most, scale, word) < static_cast<float>(race.score)) continue;
        race.enter(draw, most, logit, entry.y, word);
    }
    race.gather();
    if (threadIdx.x % 32 == 0) scratch.races[threadIdx.x / 32] = race;
    __syncthreads();
    for (int warp = 0; warp < SAMPLE_WARPS; warp++)
        race.merge(scratch.races[warp].score, scratch.races[warp].token);
    return race;
}

/// A block takes a draw.
__device__ __forceinline__ void sample_row(const SampleArgs &p) {
    SHARED_MEMORY(shared);
    RowScratch &scratch = *reinterpret_cast<RowScratch *>(shared);
    const Draw &draw = p.draws[blockIdx.x];
    if (draw.row < 0) return;
    const Maxima row = row_maxima(p, blockIdx.x);
    Candidate found{-1, row.broken ? NOT_FINITE : NOTHING_ALLOWED, 0, 0, 0, 0};
    if (!row.broken && row.drawn > MINUS_INFINITY) {
        double sum = 0, moment = 0, total = 0;
        Race race;
        for (int span = threadIdx.x % 32; span < p.n_spans(); span += 32) {
            const SpanResult &s = p.spans[(long long)blockIdx.x * p.n_spans() + span];
            sum += s.sum, moment += s.moment, total += s.total;
            race.merge(s.score, s.token);
        }
        sum = sum_of_warp(sum), moment = sum_of_warp(moment), total = sum_of_warp(total);
        race.gather();
        if (draw.temperature == 0)
            race.token = row.drawn_at;
        else if (draw.filters())
            race = race_of_pool(p, draw, row.drawn, total, scratch);
        const auto probability = [&](float logit) {
            return exp(static_cast<double>(logit) - row.most) / sum;
        };
        unsigned order[16];
        Stream(draw, OF_ORDER).block(order, 0);
        found.token = race.token, found.status = FOUND;
        found.confidence = probability(p.logits[draw.row * p.stride + race.token]);
        found.margin =
            found.confidence - probability(race.token == row.allowed_at ? row.next : row.allowed);
        found.entropy = fmax(log(sum) - moment / sum, 0.);
        found.uniform = ((static_cast<unsigned long long>(order[1]) << 32 | order[0]) >> 11) *
                        (1 / 9007199254740992.);
    }
    if (threadIdx.x == 0) p.candidates[blockIdx.x] = found;
}

extern "C" {
__global__ void __launch_bounds__(SAMPLE_THREADS, 3) sample_maxima(SampleArgs p) {
    sample_maxima_of(p);
}
__global__ void __launch_bounds__(SAMPLE_THREADS, 3) sample_spans(SampleArgs p) { sample_span(p); }
__global__ void __launch_bounds__(SAMPLE_THREADS, 3) sample_rows(SampleArgs p) { sample_row(p); }
}
