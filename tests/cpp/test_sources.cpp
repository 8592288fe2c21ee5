#include "fedmed/sources.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "fedmed/median.hpp"
#include "fedmed/pairwise_distances.hpp"
#include "fedmed/weighted_mean.hpp"
#include "models.hpp"
#include "refusal.hpp"

namespace {

using fedmed::element_type;
using fedmed::nan_policy;

/// A folder that goes with the test.
class folder {
 public:
  folder() : path_{std::filesystem::temp_directory_path() / "fedmed-sources-XXXXXX"}
  {
    std::string name = path_.string();
    path_ = mkdtemp(name.data());
  }
  folder(const folder&) = delete;
  folder& operator=(const folder&) = delete;
  ~folder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Two tensors of float32, whose first part is not aligned in the file, and counters.
std::vector<std::string> write_files(const folder& in, const random_models& models)
{
  std::vector<std::string> paths;
  for (const std::vector<float>& values : models.values) {
    const std::size_t length = values.size() - 3;
    std::vector<fedmed::tensor_entry> tensors{{"steps", element_type::int64, {2}, 0, 2},
                                              {"b", element_type::float32, {3}, 0, 3},
                                              {"c", element_type::float32, {length}, 0, length}};
    const std::int64_t steps[2]{static_cast<std::int64_t>(paths.size()), -5};
    paths.push_back(in.file(std::to_string(paths.size())));
    std::ofstream file{paths.back(), std::ios::binary};
    file << fedmed::safetensors_header(tensors);
    file.write(reinterpret_cast<const char*>(steps), sizeof steps);
    file.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof(float)));
  }
  return paths;
}

/// What `make` writes for files: the counters, and the elements of both tensors.
template <typename MakeT>
std::pair<std::vector<std::int64_t>, std::vector<float>> written(const folder& in,
                                                                 const std::vector<std::string>& paths,
                                                                 std::size_t length,
                                                                 const MakeT& make)
{
  const std::string out = in.file("out");
  const int descriptor = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  const fedmed::sources models{paths};
  make(models, fedmed::model_output{descriptor, models});
  close(descriptor);
  std::ifstream file{out, std::ios::binary};
  const std::string content{std::istreambuf_iterator<char>{file}, {}};
  std::vector<std::int64_t> steps(2);
  std::vector<float> values(length);
  const std::size_t data = content.size() - 16 - length * sizeof(float);
  std::memcpy(steps.data(), content.data() + data, 16);
  std::memcpy(values.data(), content.data() + data + 16, length * sizeof(float));
  return {steps, values};
}

/// Means, medians and distances of files are those of their arrays, on any number of threads.
void expect_as_in_memory(std::size_t count, std::size_t length)
{
  const folder here;
  const random_models models{count, length};
  const std::vector<std::string> paths = write_files(here, models);
  const std::vector<std::int64_t> weights(count, 3);
  const auto mean = [&](const fedmed::sources& from, const fedmed::model_output& out, std::size_t threads) {
    fedmed::weighted_mean(from, weights, out, nan_policy::refuse, threads);
  };
  const auto middle = [](const fedmed::sources& from, const fedmed::model_output& out, std::size_t threads) {
    fedmed::median(from, out, nan_policy::refuse, threads);
  };
  std::vector<float> expected_mean(length), expected_median(length);
  mean(models.sources(), into(expected_mean), 1);
  middle(models.sources(), into(expected_median), 1);
  for (const std::size_t threads : {1UL, 3UL}) {
    const auto means =
      written(here, paths, length, [&](const auto& from, const auto& out) { mean(from, out, threads); });
    EXPECT_EQ(means.first, (std::vector<std::int64_t>{static_cast<std::int64_t>(count) - 1, -5}));
    EXPECT_EQ(means.second, expected_mean);
    EXPECT_EQ(
      written(here, paths, length, [&](const auto& from, const auto& out) { middle(from, out, threads); })
        .second,
      expected_median);
    std::vector<double> got(count * count), wanted(count * count);
    fedmed::pairwise_distances(
      fedmed::sources{paths}, {got.data(), count, count}, nan_policy::refuse, threads);
    fedmed::pairwise_distances(models.sources(), {wanted.data(), count, count}, nan_policy::refuse, threads);
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_NEAR(got[i], wanted[i], 1e-6 * wanted[i]);  // chunks begin elsewhere
    }
  }
}

}  // namespace

TEST(Sources, FewFilesAreUsedWhereTheyWereRead)
{
  expect_as_in_memory(5, 300'007);
}

TEST(Sources, OfManyFilesRowsAreCopied)
{
  expect_as_in_memory(18, 70'003);
  expect_as_in_memory(40, 20'003);
}

TEST(Sources, WithoutDescriptorsFilesAreOpenedAgain)
{
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit few = before;
  few.rlim_cur = 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  expect_as_in_memory(100, 5'003);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(Sources, AFileThatIsCutOffMeanwhileIsNamed)
{
  const folder here;
  const random_models models{4, 40'000};
  const std::vector<std::string> paths = write_files(here, models);
  const std::vector<std::int64_t> weights(4, 1);
  std::vector<double> distances(16), norms(4);
  const std::string reference = here.file("reference");
  std::filesystem::copy_file(paths[0], reference);
  const fedmed::sources files{paths}, centre{{reference}};
  const int descriptor = open(here.file("out").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const fedmed::model_output out{descriptor, files};
  const auto mean = [&] { fedmed::weighted_mean(files, weights, out, nan_policy::refuse, 2); };
  const auto clip = [&] { fedmed::clip_norm(files, weights, centre, 1.0, norms, out, 2); };
  mean();
  clip();
  std::filesystem::resize_file(reference, 9'000);
  EXPECT_REFUSAL(clip(), "/reference: was cut off while it was read");
  std::filesystem::resize_file(paths[2], std::filesystem::file_size(paths[2]) - 1);
  std::filesystem::resize_file(paths[3], 0);
  EXPECT_REFUSAL(mean(), "/2: was cut off while it was read");
  EXPECT_REFUSAL(fedmed::median(files, out, nan_policy::propagate, 2), "/2: was cut off while it was read");
  EXPECT_REFUSAL(fedmed::pairwise_distances(files, {distances.data(), 4, 4}, nan_policy::propagate, 2),
                 "/2: was cut off while it was read");
  close(descriptor);
}

TEST(Sources, AFileThatIsWrittenToInPlaceMeanwhileIsNamed)
{
  const folder here;
  const std::vector<std::string> paths = write_files(here, random_models{3, 900});
  std::vector<double> distances(9);
  const fedmed::sources files{paths};
  const auto all = [&] {
    fedmed::pairwise_distances(files, {distances.data(), 3, 3}, nan_policy::refuse, 1);
  };
  all();
  const auto before = std::filesystem::last_write_time(paths[1]);
  // Its size stays: what a copying program does that writes over the file that is there.
  std::fstream file{paths[1], std::ios::binary | std::ios::in | std::ios::out};
  file.seekp(-4, std::ios::end).write("\0\0\0\0", 4);
  file.close();
  // The system's clock for files stands still for some milliseconds at a time.
  std::filesystem::last_write_time(paths[1], before + std::chrono::milliseconds{5});
  EXPECT_REFUSAL(all(), "/1: was written to while it was read");
}

TEST(Sources, AFileThatIsReplacedAndNoLongerOpenIsNamed)
{
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit few = before;
  few.rlim_cur = 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const folder here;
  const std::vector<std::string> paths = write_files(here, random_models{40, 900});
  const fedmed::sources files{paths};
  std::vector<double> distances(1600);
  const auto all = [&] {
    fedmed::pairwise_distances(files, {distances.data(), 40, 40}, nan_policy::refuse, 1);
  };
  all();
  std::filesystem::copy_file(paths[0], here.file("new"));
  std::filesystem::rename(here.file("new"), paths[35]);
  EXPECT_REFUSAL(all(), "/35: was replaced while it was read");
  std::filesystem::remove(paths[34]);
  EXPECT_REFUSAL(all(), "/34: cannot be read: No such file");
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(Sources, NanOfOneOfManyFilesIsNamed)
{
  const folder here;
  random_models models{20, 9'000};
  models.values[7][8'500] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::string> paths = write_files(here, models);
  const auto call = [&](nan_policy nan) {
    return written(
      here, paths, 9'000, [&](const auto& from, const auto& out) { fedmed::median(from, out, nan, 2); });
  };
  EXPECT_REFUSAL((void)call(nan_policy::refuse),
                 "/7` in tensor `c` at index 8497 has nan, expected finite values");
  EXPECT_TRUE(std::isnan(call(nan_policy::propagate).second[8'500]));
}

TEST(Sources, NoFileIsRefusedByItsName)
{
  const folder here;
  EXPECT_REFUSAL(fedmed::sources{{here.file("none")}}, "none: cannot be read: No such file");
  EXPECT_REFUSAL(fedmed::sources{{here.file("")}}, "is no file");
  std::ofstream{here.file("empty")};
  EXPECT_REFUSAL(fedmed::sources{{here.file("empty")}}, "empty: has 0 bytes, expected a safetensors file");
}
