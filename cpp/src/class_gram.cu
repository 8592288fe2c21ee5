#include "fedmed/cuda/class_gram.hpp"

#include "device.cuh"
#include "gram_plan.hpp"
#include "gram_tile.cuh"

namespace fedmed::cuda {

void class_gram(const row_view& rows,
                std::span<const std::int32_t> classes,
                matrix_view<double> grams,
                gram_mode mode,
                cudaStream_t stream)
{
  check_class_gram(rows, classes, grams);
  const gram_plan cut = plan_pieces(classes, grams.rows, gram_tiles(rows.columns));
  if (cut.pieces.empty()) {
    return;
  }
  const bool in_float64 = mode == gram_mode::exact || float64_is_fast();
  if (rows.single != nullptr) {
    add_rows(rows.single, rows.columns, cut, grams, in_float64, stream);
  } else if (rows.half != nullptr) {
    add_rows(rows.half, rows.columns, cut, grams, in_float64, stream);
  } else {
    add_rows(rows.brain, rows.columns, cut, grams, in_float64, stream);
  }
}

}  // namespace fedmed::cuda
