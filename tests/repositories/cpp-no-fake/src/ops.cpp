// Kernels that return tensors and have no fake implementation: tracing cannot know what comes out of them.

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <atomic>
#include <c10/core/ScalarType.h>
#include <torch/library.h>
#include <tuple>

namespace {

std::atomic<int64_t> calls_so_far{0}, backward_calls_so_far{0};

int64_t calls() { return calls_so_far; }
int64_t backward_calls() { return backward_calls_so_far; }

at::Tensor wide(const at::Tensor& x) { return x.to(c10::promoteTypes(x.scalar_type(), at::kFloat)); }

// The norm, and the reciprocal root mean square of each row, which the backward needs.
std::tuple<at::Tensor, at::Tensor> rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  at::AutoDispatchBelowADInplaceOrView guard;
  ++calls_so_far;
  const at::Tensor values = wide(x);
  at::Tensor scale = values.square().mean(-1, /*keepdim=*/true).add(eps).rsqrt();
  return {(values * scale).to(x.scalar_type()) * weight, scale};
}

// The gradients of x and of weight; rows are summed up in float32.
std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& scale) {
  at::AutoDispatchBelowADInplaceOrView guard;
  ++backward_calls_so_far;
  const at::Tensor normalized = wide(x) * scale;
  const at::Tensor wide_grad = wide(grad);
  const at::Tensor grad_weight = (wide_grad * normalized).reshape({-1, x.size(-1)}).sum(0);
  const at::Tensor grad_normalized = wide_grad * weight;
  const at::Tensor projection = (grad_normalized * normalized).mean(-1, /*keepdim=*/true);
  return {((grad_normalized - normalized * projection) * scale).to(x.scalar_type()), grad_weight.to(weight.scalar_type())};
}

at::Tensor silu_and_mul(const at::Tensor& x) {
  at::AutoDispatchBelowADInplaceOrView guard;
  ++calls_so_far;
  const int64_t half = x.size(-1) / 2;
  const at::Tensor gate = wide(x.narrow(-1, 0, half));
  return (gate * gate.sigmoid() * x.narrow(-1, half, half)).to(x.scalar_type());
}

at::Tensor silu_and_mul_backward(const at::Tensor& grad, const at::Tensor& x) {
  at::AutoDispatchBelowADInplaceOrView guard;
  ++backward_calls_so_far;
  const int64_t half = x.size(-1) / 2;
  const at::Tensor gate = wide(x.narrow(-1, 0, half)), up = wide(x.narrow(-1, half, half)), wide_grad = wide(grad);
  const at::Tensor sigmoid = gate.sigmoid();
  const at::Tensor grad_gate = wide_grad * up * sigmoid * (gate * (-sigmoid + 1) + 1);
  return at::cat({grad_gate, wide_grad * gate * sigmoid}, -1).to(x.scalar_type());
}

}  // namespace

TORCH_LIBRARY(fxtest_cpp_no_fake, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor scale) -> (Tensor, Tensor)");
  m.def("silu_and_mul(Tensor x) -> Tensor");
  m.def("silu_and_mul_backward(Tensor grad, Tensor x) -> Tensor");
  m.def("calls() -> int", &calls);
  m.def("backward_calls() -> int", &backward_calls);
}

TORCH_LIBRARY_IMPL(fxtest_cpp_no_fake, CPU, m) {
  m.impl("rms_norm", &rms_norm);
  m.impl("rms_norm_backward", &rms_norm_backward);
  m.impl("silu_and_mul", &silu_and_mul);
  m.impl("silu_and_mul_backward", &silu_and_mul_backward);
}

TORCH_LIBRARY_IMPL(fxtest_cpp_no_fake, CUDA, m) {
  m.impl("rms_norm", &rms_norm);
  m.impl("rms_norm_backward", &rms_norm_backward);
  m.impl("silu_and_mul", &silu_and_mul);
  m.impl("silu_and_mul_backward", &silu_and_mul_backward);
}
