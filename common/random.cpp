#include "common/random.h"

#include <openssl/crypto.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <string>

#include "common/hash.h"

namespace trib {
namespace {

static_assert(std::endian::native == std::endian::little, "keystream words are copied as they lie in memory");

constexpr std::size_t state_words = 16;
constexpr std::size_t block_bytes = 64;
constexpr std::size_t lanes = 16;  // blocks computed together, so that each word operation is a vector operation
constexpr std::size_t batch_bytes = lanes * block_bytes;

using State = std::array<std::uint32_t, state_words>;

State initial_state(std::span<const std::uint8_t, 32> key, std::uint64_t counter, std::uint64_t stream) {
  State state{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};  // "expand 32-byte k"
  std::memcpy(&state[4], key.data(), key.size());
  state[12] = static_cast<std::uint32_t>(counter);
  state[13] = static_cast<std::uint32_t>(counter >> 32);
  state[14] = static_cast<std::uint32_t>(stream);
  state[15] = static_cast<std::uint32_t>(stream >> 32);
  return state;
}

// Blocks side by side: words[i][lane] is word i of block `lane`.
template <std::size_t width>
using Lanes = std::array<std::array<std::uint32_t, width>, state_words>;

template <std::size_t width>
inline void quarter_round(Lanes<width>& x, std::size_t a, std::size_t b, std::size_t c, std::size_t d) {
  for (std::size_t lane = 0; lane < width; ++lane) {
    x[a][lane] += x[b][lane];
    x[d][lane] = std::rotl(x[d][lane] ^ x[a][lane], 16);
    x[c][lane] += x[d][lane];
    x[b][lane] = std::rotl(x[b][lane] ^ x[c][lane], 12);
    x[a][lane] += x[b][lane];
    x[d][lane] = std::rotl(x[d][lane] ^ x[a][lane], 8);
    x[c][lane] += x[d][lane];
    x[b][lane] = std::rotl(x[b][lane] ^ x[c][lane], 7);
  }
}

// RFC 8439, section 2.3: twenty rounds, then the input added word by word. out[lane * 16 + i] is word i of a block.
template <std::size_t width>
void chacha20_blocks(const Lanes<width>& input, std::uint32_t* out) {
  Lanes<width> x = input;
  for (int double_round = 0; double_round < 10; ++double_round) {
    quarter_round(x, 0, 4, 8, 12);
    quarter_round(x, 1, 5, 9, 13);
    quarter_round(x, 2, 6, 10, 14);
    quarter_round(x, 3, 7, 11, 15);
    quarter_round(x, 0, 5, 10, 15);
    quarter_round(x, 1, 6, 11, 12);
    quarter_round(x, 2, 7, 8, 13);
    quarter_round(x, 3, 4, 9, 14);
  }
  for (std::size_t lane = 0; lane < width; ++lane) {
    for (std::size_t i = 0; i < state_words; ++i) out[lane * state_words + i] = x[i][lane] + input[i][lane];
  }
  OPENSSL_cleanse(&x, sizeof x);
}

}  // namespace

RandomKey RandomKey::from_system() {
  RandomKey key;
  std::size_t length = 0;
  while (length < key.bytes_.size()) {
    const ssize_t count = ::getrandom(key.bytes_.data() + length, key.bytes_.size() - length, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      throw FatalError({Errc::io_error,
                        std::string("the operating system gives no random bytes: getrandom: ") + std::strerror(errno)});
    }
    length += static_cast<std::size_t>(count);
  }
  return key;
}

RandomKey RandomKey::from_seed(std::uint64_t seed, std::uint64_t stream) {
  const std::array<std::uint64_t, 2> numbers{seed, stream};
  RandomKey key;
  key.bytes_ = Sha256Hasher().update("tributary: key from a seed").update(std::as_bytes(std::span(numbers))).finish();
  return key;
}

RandomKey::~RandomKey() {
  OPENSSL_cleanse(bytes_.data(), bytes_.size());
}

std::uint64_t RandomSource::next() {
  std::array<std::uint8_t, 8> bytes;
  fill(bytes);
  return std::bit_cast<std::uint64_t>(bytes);
}

std::uint64_t RandomSource::below(std::uint64_t bound) {
  if (bound == 0) throw std::invalid_argument("RandomSource::below(0): there is no number below zero");
  // Lemire, "Fast random integer generation in an interval" (2019): the high half of next() * bound, rejecting the
  // 2^64 mod bound low halves that would make some results likelier.
  const std::uint64_t rejected = (0 - bound) % bound;
  while (true) {
    __extension__ const auto product = static_cast<unsigned __int128>(next()) * bound;
    if (static_cast<std::uint64_t>(product) >= rejected) return static_cast<std::uint64_t>(product >> 64);
  }
}

bool RandomSource::bernoulli(double probability) {
  if (!(probability >= 0.0 && probability <= 1.0)) {
    throw std::invalid_argument("RandomSource::bernoulli(" + std::to_string(probability) +
                                "): a probability lies between 0 and 1");
  }
  const std::uint64_t bits = next();  // drawn even where the answer is known: use of the stream tells nothing
  if (probability == 1.0) return true;
  return bits < static_cast<std::uint64_t>(std::ldexp(probability, 64));
}

double RandomSource::uniform() {
  while (true) {
    const std::uint64_t bits = next() >> 11;
    if (bits != 0) return std::ldexp(static_cast<double>(bits), -53);
  }
}

struct ChaCha20Random::Impl {
  explicit Impl(const RandomKey& key) {
    const State state = initial_state(key.bytes(), 0, 0);
    for (std::size_t i = 0; i < state_words; ++i) input[i].fill(state[i]);
  }
  ~Impl() {
    OPENSSL_cleanse(&input, sizeof input);
    OPENSSL_cleanse(buffer.data(), sizeof buffer);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::uint8_t* bytes() { return reinterpret_cast<std::uint8_t*>(buffer.data()); }

  // Fills `buffer` with the next `lanes` blocks.
  void generate() {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      input[12][lane] = static_cast<std::uint32_t>(counter + lane);
      input[13][lane] = static_cast<std::uint32_t>((counter + lane) >> 32);
    }
    counter += lanes;
    chacha20_blocks(input, buffer.data());
    consumed = 0;
  }

  Lanes<lanes> input;
  std::uint64_t counter = 0;
  std::array<std::uint32_t, lanes * state_words> buffer{};
  std::size_t consumed = batch_bytes;  // bytes of `buffer` that were handed out
};

ChaCha20Random::ChaCha20Random(const RandomKey& key) : impl_(std::make_unique<Impl>(key)) {}
ChaCha20Random::~ChaCha20Random() = default;

void ChaCha20Random::refill() {
  impl_->generate();
}

void ChaCha20Random::fill(std::span<std::uint8_t> bytes) {
  // Consumed bytes are wiped: whoever reads this memory later cannot recover noise that was drawn.
  if (bytes.size() == sizeof(std::uint64_t) && batch_bytes - impl_->consumed >= bytes.size()) {  // next(), inline
    std::uint8_t* source = impl_->bytes() + impl_->consumed;
    std::memcpy(bytes.data(), source, sizeof(std::uint64_t));
    std::memset(source, 0, sizeof(std::uint64_t));  // kept by the compiler: the buffer outlives this call
    impl_->consumed += sizeof(std::uint64_t);
    return;
  }
  while (!bytes.empty()) {
    if (impl_->consumed == batch_bytes) refill();
    const std::size_t count = std::min(bytes.size(), batch_bytes - impl_->consumed);
    std::uint8_t* source = impl_->bytes() + impl_->consumed;
    std::memcpy(bytes.data(), source, count);
    OPENSSL_cleanse(source, count);
    impl_->consumed += count;
    bytes = bytes.subspan(count);
  }
}

void chacha20_block(std::span<const std::uint8_t, 32> key, std::uint64_t counter, std::uint64_t stream,
                    std::span<std::uint32_t, 16> out) {
  State state = initial_state(key, counter, stream);
  Lanes<1> input;
  for (std::size_t i = 0; i < state_words; ++i) input[i][0] = state[i];
  chacha20_blocks(input, out.data());
  OPENSSL_cleanse(&state, sizeof state);
  OPENSSL_cleanse(&input, sizeof input);
}

}  // namespace trib
