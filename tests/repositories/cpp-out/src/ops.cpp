// Kernels that write into a tensor of the caller's and return nothing. They have no fake implementation (torch needs none for such an op), and
// no backward: called with tensors that require a gradient, they cut it silently.

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <atomic>
#include <c10/core/ScalarType.h>
#include <torch/library.h>

namespace {

std::atomic<int64_t> calls_so_far{0};

int64_t calls() { return calls_so_far; }

at::Tensor wide(const at::Tensor& x) { return x.to(c10::promoteTypes(x.scalar_type(), at::kFloat)); }

void rms_norm(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight, double eps) {
  at::AutoDispatchBelowADInplaceOrView guard;
  ++calls_so_far;
  const at::Tensor values = wide(x);
  const at::Tensor scale = values.square().mean(-1, /*keepdim=*/true).add(eps).rsqrt();
  out.copy_((values * scale).to(x.scalar_type()) * weight);
}

void silu_and_mul(at::Tensor& out, const at::Tensor& x) {
  at::AutoDispatchBelowADInplaceOrView guard;
  ++calls_so_far;
  const int64_t half = x.size(-1) / 2;
  const at::Tensor gate = wide(x.narrow(-1, 0, half));
  out.copy_(gate * gate.sigmoid() * x.narrow(-1, half, half));
}

}  // namespace

TORCH_LIBRARY(fxtest_cpp_out, m) {
  m.def("rms_norm(Tensor(a!) out, Tensor x, Tensor weight, float eps) -> ()");
  m.def("silu_and_mul(Tensor(a!) out, Tensor x) -> ()");
  m.def("calls() -> int", &calls);
}

TORCH_LIBRARY_IMPL(fxtest_cpp_out, CPU, m) {
  m.impl("rms_norm", &rms_norm);
  m.impl("silu_and_mul", &silu_and_mul);
}

TORCH_LIBRARY_IMPL(fxtest_cpp_out, CUDA, m) {
  m.impl("rms_norm", &rms_norm);
  m.impl("silu_and_mul", &silu_and_mul);
}
