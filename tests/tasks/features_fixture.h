// What the tests of features share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <set>
#include <string>

#include "common/files.h"
#include "tasks/features/extractor.h"
#include "tasks/features/feature_cache.h"

namespace trib::tasks::features {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Of extracting features: it only rises.
class RisingProgress final : public QuietProgress {
 public:
  void fraction(std::string_view what, double done) override {
    EXPECT_EQ(what, "features");
    EXPECT_GE(done, last);
    last = done;
  }
  bool cancelled() const override { return is_cancelled; }
  double last = 0.0;
  bool is_cancelled = false;
};

inline FeaturesConfig config_of(const std::string& text) {
  ConfigReader reader = ConfigReader::from_text(text, "job.toml").value();
  FeaturesConfig config = read_features_config(reader);
  reader.finish().value();
  return config;
}

inline fs::path fresh_directory(const std::string& name) {
  const fs::path directory = fs::path(testing::TempDir()) / name;
  fs::remove_all(directory);
  fs::create_directories(directory);
  return directory;
}

}  // namespace trib::tasks::features
