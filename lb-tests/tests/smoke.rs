use lb_common::{abi::FrontendKind, datapath::*, verdict::Reason};
use lb_tests::packets::{case::Case, kernel::Kernel, native, world::*};
#[test]
fn smoke() {
    let object = std::fs::read("/tmp/target-ebpf/bpfel-unknown-none/release/fairlead-ebpf").unwrap();
    let mut k = Kernel::load(&object).unwrap();
    let mut p = vec![0u8; 12];
    p.extend([
        8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0x12, 0x34, 10, 244, 1, 5, 10, 96, 0, 1,
    ]);
    p.extend([
        0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0xab, 0xcd, 0, 0,
    ]);
    let case = Case {
        name: "x".into(),
        hook: Hook::Ingress(Role::Workload),
        packet: p,
        reason: Reason::NewFlow,
        rewritten: None,
        world: World {
            services: vec![ServiceSpec {
                frontend: "10.96.0.1:80".parse().unwrap(),
                proto: 6,
                kind: FrontendKind::ClusterIp,
                endpoints: vec![("10.244.2.5:8080".parse().unwrap(), false)],
                defect: None,
            }],
            flows: vec![],
        },
    };
    let a = native::run(&case);
    let b = k.run(&case).unwrap();
    println!("{a:#?}\n{b:#?}");
    assert_eq!(a, b);
}
