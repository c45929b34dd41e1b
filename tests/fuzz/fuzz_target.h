// A libFuzzer target (LLVMFuzzerTestOneInput) that also runs as an ordinary test: over a corpus of seeds, every prefix
// of each, and many deterministic mutations of them. To fuzz for real, with clang:
//   clang++ -std=c++20 -fsanitize=fuzzer,address,undefined … tests/fuzz/TARGET.cpp
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace trib::fuzz {

inline void run_one(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

// Returns how many inputs were run.
inline std::size_t run_corpus(const std::vector<std::string>& seeds, std::size_t mutations_of_each) {
  std::mt19937_64 random(20261124);
  std::size_t runs = 0;
  for (const std::string& seed : seeds) {
    for (std::size_t length = 0; length <= seed.size(); ++length, ++runs) run_one(seed.substr(0, length));
    for (std::size_t i = 0; i < mutations_of_each; ++i, ++runs) {
      std::string mutated = seed;
      for (std::uint64_t edits = 1 + random() % 4; edits > 0; --edits) {
        const std::size_t at = mutated.empty() ? 0 : random() % mutated.size();
        const char byte = static_cast<char>(random());
        switch (random() % 4) {
          case 0:
            if (!mutated.empty()) mutated[at] = byte;
            break;
          case 1:
            mutated.insert(at, 1, byte);
            break;
          case 2:
            if (!mutated.empty()) mutated.erase(at, 1 + random() % 8);
            break;
          default:
            mutated += seeds[random() % seeds.size()];
        }
      }
      run_one(mutated);
    }
  }
  return runs;
}

}  // namespace trib::fuzz
