"""What the local stack reads from the template: the functions as CloudFormation would make them, or a refusal."""

import json
from pathlib import Path

import pytest

from worker_space_local.template import ROOT, Template, TemplateError

TEXT = """
Parameters:
  Stage: {Type: String, Default: dev}
  Url: {Type: String}
Conditions:
  Big: !Equals [!Ref Stage, prod]
  Small: !Not [{Condition: Big}]
Globals:
  Function:
    Runtime: python3.13
    Handler: app.handler
    MemorySize: 512
    Environment:
      Variables:
        URL: !Ref Url
        SHARED: one
Resources:
  Store: {Type: "AWS::S3::Bucket"}
  Main:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: !Sub "${Stage}-main"
      Timeout: !If [Big, 30, 10]
      Environment:
        Variables:
          SHARED: two
          BUCKET: !Ref Store
          ARN: !Sub "arn:${AWS::Partition}:x:${AWS::Region}:${AWS::AccountId}:${Store.Arn}:${!Kept}"
          JOINED: !Join ["/", [a, !Ref Stage]]
          NAMED: !Sub ["${It}!", {It: !GetAtt Store.Arn}]
          GONE: !If [Small, !Ref "AWS::NoValue", here]
"""


def made(
    tmp_path: Path,
    text: str = TEXT,
    *,
    parameters: dict[str, str] | None = None,
    outputs: dict[str, str] | None = None,
) -> Template:
    path = tmp_path / "template.yaml"
    path.write_text(text, "utf-8")
    return Template(
        path,
        parameters={"Url": "http://x"} if parameters is None else parameters,
        outputs={"Store": "b", "Store.Arn": "arn:b"} if outputs is None else outputs,
    )


def test_a_function_is_what_cloudformation_would_make_of_it(tmp_path: Path) -> None:
    (function,) = made(tmp_path).functions().values()
    assert (function.name, function.timeout_seconds, function.memory_mb) == ("dev-main", 10, 512)
    assert function.variables == {
        "URL": "http://x",
        "SHARED": "two",
        "BUCKET": "b",
        "ARN": "arn:aws:x:us-east-1:123456789012:arn:b:${Kept}",
        "JOINED": "a/dev",
        "NAMED": "arn:b!",
    }


def test_a_condition_decides(tmp_path: Path) -> None:
    (function,) = made(tmp_path, parameters={"Url": "http://x", "Stage": "prod"}).functions().values()
    assert function.timeout_seconds == 30
    assert function.variables["GONE"] == "here"


def test_a_parameter_without_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="wants values for Url"):
        made(tmp_path, parameters={})


def test_a_parameter_that_the_template_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="no parameter Colour"):
        made(tmp_path, parameters={"Url": "x", "Colour": "red"})


def test_a_resource_that_nobody_told_about_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"Main: nothing says what Store\.Arn is"):
        made(tmp_path, outputs={"Store": "b"}).functions()


def test_a_secret_in_a_functions_configuration_is_refused(tmp_path: Path) -> None:
    secret = '!Sub "{{resolve:secretsmanager:${Stage}:SecretString:token}}"'
    with pytest.raises(TemplateError, match="wants a secret"):
        made(tmp_path, TEXT.replace("!Ref Store", secret)).functions()


def test_an_intrinsic_function_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="Fn::Select is not understood"):
        made(tmp_path, TEXT.replace("!Ref Store", "!Select [0, [a]]")).functions()


def test_the_schedules_event_is_the_one_that_the_template_sends() -> None:
    sent = (ROOT / "events" / "schedule.json").read_text("utf-8")
    assert f"Input: '{json.dumps(json.loads(sent))}'" in (ROOT / "template.yaml").read_text("utf-8")
